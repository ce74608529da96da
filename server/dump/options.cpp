#include "server/dump/options.hpp"

#include <fmt/format.h>

namespace blockloom::dump {

Result<void> check_options(const Options& options) {
  if (!options.store.empty() && !options.device.empty())
    return Error{Errc::invalid, "dump.device: expected one of dump.store and dump.device"};
  const bool listens =
      !options.netdump.empty() || !options.stream.empty() || !options.netconsole.empty();
  if (listens && !options.enabled())
    return Error{Errc::invalid,
                 "dump.store: expected the folder that dumps are kept in, as in \"/var/crash\""};
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
