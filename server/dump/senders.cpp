#include "server/dump/senders.hpp"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>

#include "server/dump/back_end.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {

/// A line each; what begins with '#' is a comment.
Result<void> Senders::load() {
  if (options_.token_file.empty()) return {};
  const UniqueFd fd(::open(options_.token_file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return system_error("dump.token_file: " + options_.token_file, errno);
  auto text = read_up_to(fd.get(), 1u << 20);
  if (!text) return Error{text.code(), "dump.token_file: " + text.error().message};
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (!line.empty() && line.front() != '#') tokens_.emplace_back(line);
  }
  if (!tokens_.empty()) return {};
  return Error{Errc::invalid, fmt::format("dump.token_file: '{}' holds no token: expected a line "
                                          "for each",
                                          options_.token_file)};
}

bool Senders::allowed(const Address& address) const noexcept {
  if (address.loopback() || (options_.insecure && options_.allow.empty())) return true;
  for (const Network& network : options_.allow)
    if (network.contains(address)) return true;
  return false;
}

std::string Senders::host_name(const Address& address) const {
  const auto found = options_.hosts.find(address);
  return safe_host(found != options_.hosts.end() ? found->second : address.text());
}

}  // namespace blockloom::dump
