// Text keys, binary values, numbers, AHSs; and a whole login whose requests the input makes up.
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/iscsi/login.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom::iscsi;

namespace {

struct Policy final : LoginPolicy {
  LoginVerdict verdict;
  LoginVerdict judge(const LoginIdentity& identity) override {
    demand(is_iscsi_name(identity.initiator));
    return verdict;
  }
  std::string random(std::size_t count) override { return std::string(count, 'r'); }
};

void parsers(std::string_view bytes) {
  if (const auto pairs = parse_text(bytes)) {
    TextWriter writer;
    for (const KeyValue& pair : *pairs)
      writer.add(pair.key, pair.value);
    const std::string text = writer.take();
    const auto again = parse_text(text);
    demand(again && again->size() == pairs->size());
  }
  if (const auto value = decode_binary(bytes, 64)) {
    demand(value->size() <= 64);
    demand(decode_binary(encode_hex(*value), 64) == value || value->empty());
  }
  parse_number(bytes);
  parse_ahs({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
}

/// A request for each run up to a 0xff byte; its first byte is the header's flags.
void login(std::string_view bytes) {
  using namespace std::string_literals;
  Policy policy;
  const bool chap = !bytes.empty() && (bytes[0] & 1) != 0;
  if (chap) {
    ChapSettings settings;
    settings.users = {{"joe", "secret-of-12-b"}};
    settings.mutual = {"target", "the-targets-own"};
    policy.verdict.chap = std::make_shared<const ChapSettings>(settings);
  }
  Login login(policy, 16);
  bool first = true;
  while (!bytes.empty() && login.state() == Login::State::going_on) {
    const std::string_view request = bytes.substr(0, bytes.find('\xff'));
    bytes.remove_prefix(std::min(bytes.size(), request.size() + 1));
    if (request.empty()) continue;
    Bhs header;
    header.set8(0, 0x43);
    header.set8(1, static_cast<std::uint8_t>(request[0]));
    std::string text(request.substr(1));
    for (char& c : text)
      if (c == '\n') c = '\0';
    if (first) text.insert(0, "InitiatorName=iqn.a\0TargetName=iqn.t\0"s);
    first = false;
    const Login::Response response = login.step(header, text);
    demand(response.data.size() <= 8192);
    demand(response.header.data_length() == response.data.size());
    demand((response.header.u16(36) == 0) == (login.state() != Login::State::failed));
  }
  // The secret is not in the input: whoever gets through was not asked.
  if (chap) demand(login.state() != Login::State::done);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  parsers(bytes);
  login(bytes);
  return 0;
}
