// A bug that a fuzzer finds at once: the suite runs it first, and fails if nothing is found.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 2 && data[0] == 'b' && data[1] == 'u' && data[2] == 'g') std::abort();
  return 0;
}
