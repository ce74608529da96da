// A connection of the iSCSI target that is fed any bytes from its first one on: headers, digests,
// lengths, logins.
#include <cstdint>
#include <string_view>

#include "tests/fuzz/demand.hpp"
#include "tests/fuzz/iscsi_fixture.hpp"

using namespace blockloom;
using namespace blockloom::iscsi;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Registry registry;
  static Node* const node = [] {
    demand(bool(registry.create({"a", {}, {}, "0 2048 linear mem:1M 0", false})));
    IscsiOptions options;
    options.enabled = true;
    return new Node(registry, options);  // for all inputs: it has threads
  }();
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  TestConnection test(*node);
  const bool logged_in = !bytes.empty() && (bytes[0] & 1) != 0;
  if (!bytes.empty()) bytes.remove_prefix(1);
  if (logged_in) {
    test.log_in();
    demand(test.answers.size() >= 48);
    demand(test.answers[0] == 0x23 && test.answers[36] == 0);
  }
  test.pour(bytes);
  return 0;
}
