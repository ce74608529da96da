#include "server/dump/options.hpp"

#include <fmt/format.h>

namespace blockloom::dump {
namespace {

Result<void> check_tls(const TlsOptions& tls) {
  if (!tls.certificates.empty() && !tls.psk.empty())
    return Error{Errc::invalid, "dump.tls.psk: expected certificates or keys, not both"};
  if (tls.mode != TlsOptions::Mode::off && tls.certificates.empty() && tls.psk.empty())
    return Error{
        Errc::invalid,
        "dump.tls.mode: TLS needs dump.tls.psk (a file of keys) or dump.tls.certificates (a "
        "folder with server-cert.pem and server-key.pem)"};
  if (tls.verify_peer && !tls.psk.empty())
    return Error{Errc::invalid,
                 "dump.tls.verify_peer: it is for certificates; with dump.tls.psk "
                 "every sender proves its key"};
  return {};
}

}  // namespace

Result<void> check_options(const Options& options) {
  if (!options.store.empty() && !options.device.empty())
    return Error{Errc::invalid, "dump.device: expected one of dump.store and dump.device"};
  const bool listens =
      !options.netdump.empty() || !options.stream.empty() || !options.netconsole.empty();
  if (listens && !options.enabled())
    return Error{Errc::invalid,
                 "dump.store: expected the folder that dumps are kept in, as in \"/var/crash\", or "
                 "dump.device"};
  if (auto good = check_tls(options.tls); !good) return good;
  if (options.insecure || !options.allow.empty()) return {};
  for (const auto* list : {&options.netdump, &options.stream, &options.netconsole})
    for (const BindPoint& point : *list)
      if (!point.address.loopback())
        return Error{Errc::invalid,
                     fmt::format("dump: {} is public: expected dump.allow with the networks that "
                                 "may send, or dump.insecure = true",
                                 point.text())};
  return {};
}

}  // namespace blockloom::dump
