// attach_help: the exact lines with which a client attaches a device.
#include <fmt/format.h>
#include <unistd.h>

#include "server/control/attach.hpp"
#include "server/control/verb.hpp"

namespace blockloom::control {
namespace {

using rpc::Value;

bool plain(char c, std::string_view also) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         also.find(c) != std::string_view::npos;
}

std::string percent_encoded(std::string_view text, std::string_view also = "-._~") {
  std::string out;
  for (const char c : text) {
    if (plain(c, also))
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

/// Quoted for a POSIX shell, only where it has to be.
std::string shell_word(std::string_view text) {
  bool safe = !text.empty();
  for (const char c : text)
    safe = safe && plain(c, "-._/:@%+=,[]");
  if (safe) return std::string(text);
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

/// nbdtab separates its fields by white space, options by commas, and knows no quoting.
bool fits_nbdtab(std::string_view word) {
  return !word.empty() && word.find_first_of(" \t\n#,") == std::string_view::npos;
}

/// The host that a client elsewhere would name for an address that means "every address".
std::string host_of(const Endpoint& endpoint) {
  const std::string& address = endpoint.address;
  if (!address.empty() && address != "0.0.0.0" && address != "::" && address != "*") return address;
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

/// qemu's options separate by commas; one in a value is doubled.
std::string qemu_value(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == ',') out += c;
  }
  return out;
}

constexpr std::string_view tls_files =
    " -certfile client-cert.pem -keyfile client-key.pem -cacertfile ca-cert.pem";

Attach tcp_lines(const Endpoint& endpoint, const std::string& name) {
  const std::string host = host_of(endpoint);
  const bool v6 = host.find(':') != std::string::npos;
  const std::string authority = fmt::format("{}:{}", v6 ? "[" + host + "]" : host, endpoint.port);
  Attach lines;
  lines.uri =
      fmt::format("{}://{}/{}", endpoint.tls ? "nbds" : "nbd", authority, percent_encoded(name));
  lines.nbd_client = fmt::format("nbd-client {} {} /dev/nbd0 -N {}{}", shell_word(host),
                                 endpoint.port, shell_word(name), endpoint.tls ? tls_files : "");
  if (fits_nbdtab(name) && !endpoint.tls)
    lines.nbdtab = fmt::format("nbd0 {} {} port={}", host, name, endpoint.port);
  return lines;
}

Attach unix_lines(const Endpoint& endpoint, const std::string& name) {
  Attach lines;
  lines.uri = fmt::format("{}://{}?socket={}", endpoint.tls ? "nbds+unix" : "nbd+unix",
                          "/" + percent_encoded(name), percent_encoded(endpoint.address, "-._~/"));
  lines.nbd_client =
      fmt::format("nbd-client -unix {} /dev/nbd0 -N {}{}", shell_word(endpoint.address),
                  shell_word(name), endpoint.tls ? tls_files : "");
  if (fits_nbdtab(name) && fits_nbdtab(endpoint.address) && !endpoint.tls)
    lines.nbdtab = fmt::format("nbd0 {} {} unix", endpoint.address, name);
  return lines;
}

Attach vsock_lines(const Endpoint& endpoint, const std::string& name) {
  // A guest reaches its host as context 2.
  const std::string cid = endpoint.address.empty() ? "2" : endpoint.address;
  Attach lines;
  lines.uri = fmt::format("{}://{}:{}/{}", endpoint.tls ? "nbds+vsock" : "nbd+vsock", cid,
                          endpoint.port, percent_encoded(name));
  return lines;
}

}  // namespace

Attach attach_lines(const Endpoint& endpoint, const std::string& name) {
  Attach lines;
  switch (endpoint.kind) {
    case Endpoint::Kind::tcp:
      lines = tcp_lines(endpoint, name);
      break;
    case Endpoint::Kind::unix_socket:
      lines = unix_lines(endpoint, name);
      break;
    case Endpoint::Kind::vsock:
      lines = vsock_lines(endpoint, name);
      break;
  }
  lines.nbdinfo = fmt::format("nbdinfo {}", shell_word(lines.uri));
  // qemu reads a TLS client's credentials from an object; its URI parser knows no vsock.
  if (endpoint.kind != Endpoint::Kind::vsock && !endpoint.tls)
    lines.qemu =
        fmt::format("qemu-system-x86_64 -drive {}",
                    shell_word(fmt::format("file={},format=raw,if=virtio", qemu_value(lines.uri))));
  return lines;
}

Result<Value> verb_attach_help(VerbContext& context, const Params& params) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  const std::string name = (*device)->name();
  Value endpoints = Value::array();
  for (const Endpoint& endpoint : context.options.endpoints) {
    const Attach lines = attach_lines(endpoint, name);
    static constexpr std::string_view kinds[] = {"tcp", "unix", "vsock"};
    Value value = Value::object();
    value.set("kind", kinds[static_cast<std::size_t>(endpoint.kind)])
        .set("tls", endpoint.tls)
        .set("uri", lines.uri)
        .set("nbd_client", lines.nbd_client)
        .set("nbdinfo", lines.nbdinfo)
        .set("qemu", lines.qemu)
        .set("nbdtab", lines.nbdtab);
    endpoints.push(std::move(value));
  }
  Value answer = Value::object();
  answer.set("name", name)
      .set("default_export",
           context.options.default_device && name == context.options.default_device())
      .set("endpoints", std::move(endpoints));
  return answer;
}

}  // namespace blockloom::control
