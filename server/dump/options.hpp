#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/dump/address.hpp"
#include "server/dump/store.hpp"

namespace blockloom::dump {

/// [dump.tls]: of the stream.
struct TlsOptions {
  enum class Mode : std::uint8_t { off, on, require };
  Mode mode = Mode::off;
  std::string certificates;  ///< a folder
  std::string psk;           ///< or a file of keys that are shared beforehand
  bool verify_peer = false;
  bool operator==(const TlsOptions&) const = default;
};

/// [dump] of the configuration; docs/blockloom.toml.5.scd describes each.
struct Options {
  std::string store;   ///< a folder; empty: no dumps are taken in
  std::string device;  ///< a device of ours instead, which nobody else can open then
  std::vector<BindPoint> netdump, stream, netconsole;
  std::vector<Network> allow;  ///< empty: loopback only, unless `insecure`
  bool insecure = false;
  std::string token_file;  ///< secrets of the senders of streams, a line each
  TlsOptions tls;
  std::map<Address, std::string> hosts;
  Quota quota;
  Retention retention;
  std::size_t sessions = 64;           ///< at once
  std::size_t begins_per_minute = 30;  ///< of one address
  Duration timeout = std::chrono::minutes(10);
  std::string hook;  ///< a program, run at a dump's start and end, and when there is no space
  Duration hook_timeout = std::chrono::seconds(60);

  bool enabled() const noexcept { return !store.empty() || !device.empty(); }
  bool operator==(const Options&) const = default;
};

/// Refuses what a public address would need and is not there: an address list, or `insecure`.
Result<void> check_options(const Options& options);

}  // namespace blockloom::dump
