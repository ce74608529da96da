// A live connection, stateful: the input is a script of PDUs that make sense one by one, so that
// the fuzzer reaches what lies behind tags, numbers, offsets and task states.
#include <cstdint>
#include <string>

#include "tests/fuzz/demand.hpp"
#include "tests/fuzz/iscsi_fixture.hpp"

using namespace blockloom;
using namespace blockloom::iscsi;

namespace {

/// Takes bytes off the input; zeroes when it is at its end.
struct Script {
  const std::uint8_t* at;
  const std::uint8_t* end;
  bool more() const { return at != end; }
  std::uint8_t byte() { return more() ? *at++ : std::uint8_t{0}; }
};

constexpr std::uint8_t opcodes[] = {0x01, 0x01, 0x01, 0x05, 0x05, 0x02, 0x00, 0x04, 0x06, 0x10};

void one_pdu(Script& script, TestConnection& test, std::uint32_t& cmd_sn) {
  const std::uint8_t kind = script.byte();
  Bhs header;
  const std::uint8_t opcode = opcodes[kind % std::size(opcodes)];
  const bool immediate = (kind & 0x80) != 0 && opcode != 0x05;
  header.set8(0, static_cast<std::uint8_t>(opcode | (immediate ? 0x40 : 0)));
  header.set8(1, script.byte());
  header.set8(9, script.byte() & 3);     // LUN
  header.set32(16, script.byte() % 8U);  // ITT: few, so that they meet
  const std::uint8_t tag = script.byte();
  header.set32(20, tag == 0xff ? no_tag : tag & 0x80 ? tag & 0x7fU : tag * 512U);
  header.set32(24, cmd_sn + (script.byte() % 16 == 15 ? 1 : 0));
  if (opcode == 0x01) {
    constexpr std::size_t cdb = 32;
    for (std::size_t i = 0; i < 10; ++i)
      header.set8(cdb + i, script.byte());
  } else {
    header.set32(36, script.byte());         // DataSN
    header.set32(40, script.byte() * 512U);  // buffer offset
  }
  const std::uint32_t length = script.byte() * 64U;
  header.set_data_length(length);
  const bool counted = !immediate && opcode != 0x05 && opcode != 0x10;
  test.pour({reinterpret_cast<const char*>(header.bytes.data()), bhs_size});
  test.pour(std::string(padded(length), 'd'));
  if (counted) ++cmd_sn;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Registry registry;
  static Node* const node = [] {
    demand(bool(registry.create({"a", {}, {}, "0 2048 linear mem:1M 0", false})));
    demand(bool(registry.create({"b", {}, {}, "0 64 zero", true})));
    IscsiOptions options;
    options.enabled = true;
    return new Node(registry, options);  // for all inputs: it has threads
  }();
  using namespace std::string_literals;
  Script script{data, data + size};
  TestConnection test(*node);
  const std::uint8_t how = script.byte();
  std::string keys;
  if ((how & 1) != 0) keys += "ImmediateData=No\0"s;
  if ((how & 2) == 0) keys += "InitialR2T=No\0"s;
  if ((how & 4) != 0) keys += "MaxBurstLength=1024\0MaxOutstandingR2T=3\0"s;
  if ((how & 8) != 0) keys += "MaxRecvDataSegmentLength=512\0"s;
  test.log_in(keys);
  demand(test.answers.size() >= 48 && test.answers[36] == 0);
  std::uint32_t cmd_sn = 1;
  for (int pdus = 0; script.more() && pdus < 64 && !test.wire.closed; ++pdus)
    one_pdu(script, test, cmd_sn);
  return 0;
}
