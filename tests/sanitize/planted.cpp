// Bugs on purpose: the sanitizer suites run each first, and believe a silent build nothing.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

namespace {

volatile int sink = 0;

void overflow() {
  volatile std::size_t beyond = 8;
  auto* bytes = static_cast<char*>(std::calloc(1, 8));
  sink = bytes[beyond];
  std::free(bytes);
}

void leak() {
  char* volatile lost = static_cast<char*>(std::malloc(64));
  std::memset(lost, 1, 64);
  lost = nullptr;
}

void undefined() {
  volatile int most = 0x7fffffff;
  sink = most + 1;
}

void race() {
  int shared = 0;
  std::thread other([&] { ++shared; });
  ++shared;
  other.join();
  sink = shared;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view bug = argc > 1 ? argv[1] : "";
  if (bug == "overflow")
    overflow();
  else if (bug == "leak")
    leak();
  else if (bug == "undefined")
    undefined();
  else if (bug == "race")
    race();
  else if (bug != "none")
    return 2;
  std::puts("not noticed");
  return 0;
}
