#include "server/leg/nbd_uri.hpp"

#include <optional>

#include <fmt/format.h>
#include <sys/un.h>

#include "proto/text/number.hpp"
#include "server/base/units.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

struct Scheme {
  std::string_view text;
  NbdUri::Transport transport;
  bool tls;
};
using enum NbdUri::Transport;
constexpr Scheme schemes[] = {
    {"nbd:", tcp, false},
    {"nbds:", tcp, true},
    {"nbd+unix:", unix_socket, false},
    {"nbds+unix:", unix_socket, true},
    {"nbd+vsock:", vsock, false},
    {"nbds+vsock:", vsock, true},
};

const Scheme* scheme_of(std::string_view uri) {
  for (const Scheme& scheme : schemes)
    if (uri.starts_with(scheme.text)) return &scheme;
  return nullptr;
}

std::optional<std::uint32_t> number_up_to(std::string_view text, std::uint32_t max) {
  std::uint32_t value = 0;
  if (!parse_whole(text, value) || value > max) return std::nullopt;
  return value;
}

Error wrong(std::string_view what, std::string_view value, std::string_view expected) {
  return {Errc::invalid, fmt::format("{} {}: expected {}", what, quoted(value), expected)};
}

Result<std::string> absolute_path(std::string_view what, std::string value) {
  // The server leaves the folder that it was started in.
  if (value.starts_with('/')) return value;
  return wrong(what, value, "an absolute path");
}

Result<Duration> milliseconds(std::string_view what, std::string_view text, std::uint32_t max) {
  const auto value = number_up_to(text, max);
  if (!value || *value < 100)
    return wrong(what, text, fmt::format("milliseconds from 100 to {}", max));
  return Duration(std::chrono::milliseconds(*value));
}

/// Reads one parameter into the result.
Result<void> take_parameter(std::string_view key, std::string value, NbdUri& uri) {
  const auto path_into = [&](std::string& place) -> Result<void> {
    auto path = absolute_path(key, value);
    if (!path) return path.error();
    place = std::move(*path);
    return {};
  };
  const auto time_into = [&](Duration& place, std::uint32_t max) -> Result<void> {
    auto time = milliseconds(key, value, max);
    if (!time) return time.error();
    place = *time;
    return {};
  };
  if (key == "socket") return path_into(uri.socket);
  if (key == "tls-certificates") return path_into(uri.tls_certificates);
  if (key == "tls-psk-file") return path_into(uri.tls_psk_file);
  if (key == "timeout_ms") return time_into(uri.timeout, 3'600'000);
  if (key == "connect_timeout_ms") return time_into(uri.connect_timeout, 60'000);
  if (key == "tls-verify-peer") {
    if (value != "yes" && value != "no") return wrong(key, value, "yes or no");
    uri.tls_verify_peer = value == "yes";
    return {};
  }
  if (key == "connections") {
    const auto count = number_up_to(value, 16);
    if (!count || *count == 0) return wrong(key, value, "a number from 1 to 16");
    uri.connections = *count;
    return {};
  }
  return wrong("parameter", key,
               "socket, tls-certificates, tls-psk-file, tls-verify-peer, connections, timeout_ms "
               "or connect_timeout_ms");
}

Result<void> take_query(std::string_view query, NbdUri& uri) {
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const auto equals = pair.find('=');
    if (equals == pair.npos) return wrong("parameter", pair, "NAME=VALUE");
    auto value = percent_decode(pair.substr(equals + 1));
    if (!value) return value.error();
    if (auto r = take_parameter(pair.substr(0, equals), std::move(*value), uri); !r) return r;
  }
  return {};
}

/// "[USER@]HOST[:PORT]", an IPv6 address in brackets.
Result<void> take_authority(std::string_view text, NbdUri& uri) {
  if (const auto at = text.rfind('@'); at != text.npos) {
    auto user = percent_decode(text.substr(0, at));
    if (!user) return user.error();
    uri.user = std::move(*user);
    text.remove_prefix(at + 1);
    if (uri.user.empty() || !uri.tls) return wrong("user", uri.user, "a name, with TLS only");
  }
  if (uri.transport == unix_socket) {
    if (text.empty()) return {};
    return wrong("host", text, "none between // and / where socket=PATH says the place");
  }
  std::string_view host = text, port;
  if (text.starts_with('[')) {
    const auto end = text.find(']');
    if (end == text.npos) return wrong("host", text, "] after an IPv6 address");
    host = text.substr(1, end - 1);
    port = text.substr(end + 1);
  } else if (const auto colon = text.find(':'); colon != text.npos) {
    host = text.substr(0, colon);
    port = text.substr(colon);
  }
  if (!port.empty()) {
    const auto value = port.starts_with(':') ? number_up_to(port.substr(1), 65535) : std::nullopt;
    if (!value || *value == 0) return wrong("port", port, "a colon and a number from 1 to 65535");
    uri.port = static_cast<std::uint16_t>(*value);
  }
  if (host.find('%') != host.npos && !text.starts_with('['))
    return wrong("host", host, "a name or an address");
  uri.host = host;
  if (host.empty() || host.size() > 255) return wrong("host", host, "a name or an address");
  if (uri.transport == tcp) return {};
  const auto cid = number_up_to(host, 0xffffffff);
  if (!cid) return wrong("host", host, "the number of a vsock context (2 is the host)");
  uri.cid = *cid;
  return {};
}

}  // namespace

std::string NbdUri::server() const {
  const std::string_view s = tls ? "s" : "";
  switch (transport) {
    case tcp:
      break;
    case unix_socket:
      return fmt::format("nbd{}+unix:{}", s, socket);
    case vsock:
      return fmt::format("nbd{}+vsock://{}:{}", s, cid, port);
  }
  return host.find(':') == host.npos ? fmt::format("nbd{}://{}:{}", s, host, port)
                                     : fmt::format("nbd{}://[{}]:{}", s, host, port);
}

bool is_nbd_uri(std::string_view uri) {
  return scheme_of(uri) != nullptr;
}

Result<NbdUri> parse_nbd_uri(std::string_view text) {
  const Scheme* scheme = scheme_of(text);
  std::string_view rest = scheme == nullptr ? text : text.substr(scheme->text.size());
  if (scheme == nullptr || !rest.starts_with("//") || text.find('\0') != text.npos)
    return Error{Errc::invalid,
                 "expected nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH"};
  rest.remove_prefix(2);
  NbdUri uri;
  uri.transport = scheme->transport;
  uri.tls = scheme->tls;

  const auto mark = rest.find('?');
  const std::string_view query = mark == rest.npos ? std::string_view() : rest.substr(mark + 1);
  rest = rest.substr(0, mark);
  const auto slash = rest.find('/');
  if (auto r = take_authority(rest.substr(0, slash), uri); !r) return r.error();
  if (slash != rest.npos) {
    auto name = percent_decode(rest.substr(slash + 1));
    if (!name) return name.error();
    uri.export_name = std::move(*name);
  }
  if (uri.export_name.size() > NbdUri::max_export)
    return wrong("export", uri.export_name, fmt::format("at most {} bytes", NbdUri::max_export));
  if (auto r = take_query(query, uri); !r) return r.error();

  const bool local = uri.transport == unix_socket;
  if (local && uri.socket.empty()) return Error{Errc::invalid, "expected a parameter socket=PATH"};
  if (!local && !uri.socket.empty())
    return wrong("parameter", "socket", "it with nbd+unix: or nbds+unix: only");
  if (uri.socket.size() >= sizeof(sockaddr_un{}.sun_path))
    return wrong("socket", uri.socket,
                 fmt::format("at most {} bytes", sizeof(sockaddr_un{}.sun_path) - 1));
  if (!uri.tls && !(uri.tls_certificates.empty() && uri.tls_psk_file.empty()))
    return Error{Errc::invalid, "TLS parameters: expected a scheme with TLS, such as nbds:"};
  if (!uri.tls_certificates.empty() && !uri.tls_psk_file.empty())
    return Error{Errc::invalid, "expected tls-certificates or tls-psk-file, not both"};
  return uri;
}

}  // namespace blockloom
