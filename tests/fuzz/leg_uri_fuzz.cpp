// What leg URIs are made of, and the rules of fault legs. Opens nothing.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/leg/fault_rules.hpp"
#include "server/leg/iscsi_uri.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/nbd_epoch.hpp"
#include "server/leg/nbd_uri.hpp"
#include "server/leg/uri.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

void try_nbd(std::string_view text) {
  if (const auto uri = parse_nbd_uri(text)) {
    const NbdUri& u = uri.value();
    demand(is_nbd_uri(text));
    demand(u.connections >= 1 && u.connections <= 16);
    demand(u.timeout >= std::chrono::milliseconds(100) && u.timeout <= std::chrono::hours(1));
    demand(u.connect_timeout <= std::chrono::minutes(1));
    demand(u.export_name.size() <= NbdUri::max_export);
    demand(u.export_name.find('\0') == std::string::npos);
    demand((u.transport == NbdUri::Transport::unix_socket) == !u.socket.empty());
    demand(u.tls || (u.tls_psk_file.empty() && u.tls_certificates.empty() && u.user.empty()));
    demand(!u.server().empty());
  }
  if (const auto e = parse_epoch_export(text)) {
    const EpochExport& parsed = e.value();
    demand((parsed.kind == EpochExport::Kind::epoch) == (parsed.epoch != 0));
    // What is written is read back, whatever the name is.
    const std::string name = epoch_export(text, 17);
    const auto again = parse_epoch_export(name);
    demand(static_cast<bool>(again));
    demand(again.value().device == text);
  }
  if (const auto epoch = epoch_in_description(text))
    demand(epoch_in_description(epoch_description(*epoch, "x")) == epoch);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)parse_size(text, "fuzz");
  if (const auto time = parse_time(text, "fuzz")) demand(time.value() <= std::chrono::hours(1));
  if (const auto count = parse_count(text, "fuzz", 9))
    demand(count.value() >= 1 && count.value() <= 9);
  if (const auto decoded = percent_decode(text)) demand(decoded.value().size() <= size);
  (void)device_in_uri(text);
  try_nbd(text);

  if (const auto iscsi = parse_iscsi_uri(text)) {
    demand(!iscsi.value().host.empty() && iscsi.value().port != 0);
    demand(iscsi.value().target.size() > 4 && iscsi.value().lun < 16384);
    // A password that the text holds as it is stands nowhere in what is shown.
    const std::string& password = iscsi.value().password;
    const std::string marked = "%" + password + "@";
    demand(password.empty() || public_uri(text).find(marked) == std::string::npos ||
           password == "***");
  }

  std::string_view rules, inner;
  if (split_fault_uri(text, rules, inner)) demand(rules.size() + inner.size() < size);

  const auto parsed = parse_fault_rules(text);
  if (!parsed) return 0;
  demand(parsed.value().size() <= 64);
  for (const FaultRule& rule : parsed.value()) {
    // A count that is used up has no words in the grammar.
    if (rule.left && *rule.left == 0) continue;
    const auto again = parse_fault_rules(to_string(rule));
    demand(static_cast<bool>(again) && again.value().size() == 1);
    demand(to_string(again.value()[0]) == to_string(rule));
  }
  return 0;
}
