#include "server/leg/iscsi_uri.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/iscsi/chap.hpp"
#include "proto/text/number.hpp"
#include "server/base/log.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

constexpr std::string_view iscsi_scheme = "iscsi://";
constexpr std::size_t max_name = 223;      // RFC 7143 4.2.7.2
constexpr std::size_t max_secret = 255;    // what targets take
constexpr std::uint64_t max_lun = 0x3fff;  // flat space addressing (SAM-5 4.7.7.3)

constexpr std::string_view grammar =
    "expected iscsi://[USER[%PASSWORD]@]HOST[:PORT]/TARGET/LUN[?KEY=VALUE&…]";

Error bad(std::string_view what) {
  return {Errc::invalid, std::string(what)};
}

/// iSCSI names hold no spaces and no controls; what else a type allows is the target's to say.
bool is_iscsi_name(std::string_view name) {
  const bool known =
      name.starts_with("iqn.") || name.starts_with("eui.") || name.starts_with("naa.");
  return known && name.size() > 4 && name.size() <= max_name &&
         std::none_of(name.begin(), name.end(), [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte <= ' ' || byte == 0x7f || c == '/' || c == ',' || c == '=' || c == '@';
         });
}

bool is_user(std::string_view text) {
  return text.size() <= max_secret && std::none_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < ' ' || c == 0x7f;
         });
}

/// [USER[%PASSWORD]@]: the first % ends the user.
Result<std::string_view> take_user(std::string_view authority, IscsiUri& result) {
  const auto at = authority.rfind('@');
  if (at == authority.npos) return authority;
  const std::string_view user = authority.substr(0, at);
  const auto percent = user.find('%');
  result.user = user.substr(0, percent);
  if (result.user.empty() || !is_user(result.user))
    return bad("expected a user of 1 to 255 characters before the @");
  if (percent != user.npos) {
    auto password = percent_decode(user.substr(percent + 1));
    if (!password || password->empty() || !is_user(*password))
      return bad(
          "the password after the % is not one: expected 1 to 255 characters, with %25 for a %, "
          "%40 for an @ and %2F for a /");
    result.password = std::move(*password);
  }
  return authority.substr(at + 1);
}

Result<void> parse_portal(std::string_view portal, IscsiUri& result) {
  std::string_view port;
  if (portal.starts_with('[')) {
    const auto close = portal.find(']');
    if (close == portal.npos) return bad(fmt::format("{}: expected a ] ", quoted(portal)));
    result.host = portal.substr(1, close - 1);
    port = portal.substr(close + 1);
  } else {
    const auto colon = portal.find(':');
    result.host = portal.substr(0, colon);
    port = colon == portal.npos ? std::string_view() : portal.substr(colon);
  }
  if (result.host.empty() || result.host.size() > 255 || !is_user(result.host))
    return bad(fmt::format("{}: expected a host name or an address", quoted(portal)));
  if (port.empty()) return {};
  if (!port.starts_with(':') || !parse_whole(port.substr(1), result.port) || result.port == 0)
    return bad(fmt::format("{}: expected a port from 1 to 65535", quoted(portal)));
  return {};
}

Result<void> parse_name(std::string_view text, std::string_view what, std::string& into) {
  auto name = percent_decode(text);
  if (!name || !is_iscsi_name(*name))
    return bad(fmt::format("{} {}: expected an iSCSI name, such as iqn.2026-01.com.example:disk",
                           what, quoted(text)));
  into = std::move(*name);
  return {};
}

Result<void> parse_digest(std::string_view key, std::string_view value, bool& into) {
  if (value != "none" && value != "crc32c")
    return bad(fmt::format("{}={}: expected none or crc32c", key, quoted(value)));
  into = value == "crc32c";
  return {};
}

Result<void> parse_duration(std::string_view key, std::string_view value, Duration& into) {
  auto time = parse_time(value, key);
  if (!time) return time.error();
  if (*time < std::chrono::milliseconds(100))
    return bad(fmt::format("{} {}: expected at least 100ms", key, quoted(value)));
  into = *time;
  return {};
}

Result<void> parse_user(std::string_view key, std::string_view value, std::string& into) {
  auto user = percent_decode(value);
  if (!user || user->empty() || !is_user(*user))
    return bad(fmt::format("{}: expected 1 to 255 characters", key));
  into = std::move(*user);
  return {};
}

Result<void> parse_chap(std::string_view value, IscsiUri& result) {
  for (std::string_view rest = value; !rest.empty();) {
    const auto comma = rest.find(',');
    if (!iscsi::chap_algorithm(rest.substr(0, comma)) || value.size() > 64)
      return bad(
          fmt::format("chap={}: expected a list of md5, sha1, sha256, sha3-256", quoted(value)));
    rest = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  }
  if (value.empty()) return bad("chap=: expected a list of md5, sha1, sha256, sha3-256");
  result.chap = value;
  return {};
}

Result<void> parse_file(std::string_view key, std::string_view value, std::string& into) {
  auto path = percent_decode(value);
  if (!path || !path->starts_with('/'))
    return bad(fmt::format("{}={}: expected an absolute path", key, quoted(value)));
  into = std::move(*path);
  return {};
}

Result<void> parse_parameter(std::string_view key, std::string_view value, IscsiUri& result) {
  if (key == "password_file") return parse_file(key, value, result.password_file);
  if (key == "target_password_file") return parse_file(key, value, result.target_password_file);
  if (key == "target_user") return parse_user(key, value, result.target_user);
  if (key == "chap") return parse_chap(value, result);
  if (key == "initiator") return parse_name(value, key, result.initiator);
  if (key == "header_digest") return parse_digest(key, value, result.header_digest);
  if (key == "data_digest") return parse_digest(key, value, result.data_digest);
  if (key == "timeout") return parse_duration(key, value, result.timeout);
  if (key == "login_timeout") return parse_duration(key, value, result.login_timeout);
  if (key == "keepalive") return parse_duration(key, value, result.keepalive);
  if (key == "queue_depth") {
    auto depth = parse_count(value, key, 512);
    if (!depth) return depth.error();
    result.queue_depth = static_cast<unsigned>(*depth);
    return {};
  }
  return bad(
      fmt::format("{}: expected password_file, target_user, target_password_file, chap, initiator, "
                  "header_digest, data_digest, queue_depth, timeout, login_timeout or keepalive",
                  quoted(key)));
}

Result<void> check_users(const IscsiUri& result) {
  if (!result.password.empty() && !result.password_file.empty())
    return bad("password_file: there is a password before the @ already: expected one of them");
  const bool has_password = !result.password.empty() || !result.password_file.empty();
  if (result.user.empty() == has_password)
    return bad("CHAP takes both: expected USER@ and its password (%PASSWORD or password_file=)");
  if (result.target_user.empty() != result.target_password_file.empty())
    return bad("mutual CHAP takes both: expected target_user= and target_password_file=");
  if (!result.target_user.empty() && result.user.empty())
    return bad("target_user: mutual CHAP comes on top of CHAP: expected USER@ too");
  return {};
}

Result<IscsiUri> parse(std::string_view uri) {
  IscsiUri result;
  if (!uri.starts_with(iscsi_scheme)) return bad(grammar);
  std::string_view rest = uri.substr(iscsi_scheme.size());
  const auto mark = rest.find('?');
  std::string_view query = mark == rest.npos ? std::string_view() : rest.substr(mark + 1);
  rest = rest.substr(0, mark);
  const auto slash = rest.find('/');
  const auto last = rest.rfind('/');
  if (slash == rest.npos || last == slash) return bad(grammar);
  if (rest.find('@', slash) != rest.npos)
    return bad("there is an @ behind the first /: expected %2F for a / in a password");
  auto portal = take_user(rest.substr(0, slash), result);
  if (!portal) return portal.error();
  if (auto r = parse_portal(*portal, result); !r) return r.error();
  if (auto r = parse_name(rest.substr(slash + 1, last - slash - 1), "target", result.target); !r)
    return r.error();
  std::uint64_t lun = 0;
  if (!parse_whole(rest.substr(last + 1), lun) || lun > max_lun)
    return bad(fmt::format("LUN {}: expected a number from 0 to {}", quoted(rest.substr(last + 1)),
                           max_lun));
  result.lun = static_cast<std::uint16_t>(lun);
  while (!query.empty()) {
    const auto end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const auto equals = pair.find('=');
    if (equals == pair.npos) return bad(fmt::format("{}: expected KEY=VALUE", quoted(pair)));
    if (auto r = parse_parameter(pair.substr(0, equals), pair.substr(equals + 1), result); !r)
      return r.error();
  }
  if (auto r = check_users(result); !r) return r.error();
  return result;
}

/// The first line of a small file.
Result<std::string> read_secret(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return system_error(fmt::format("password file '{}'", path), errno);
  struct stat info {};
  char buffer[max_secret + 3];
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const ssize_t n = regular ? read(fd, buffer, sizeof buffer) : 0;
  close(fd);
  if (!regular)
    return Error{Errc::invalid, fmt::format("password file '{}': expected a regular file", path)};
  if ((info.st_mode & 0007) != 0)
    log_warning(fmt::format("password file '{}' is open to everybody: expected mode 0600", path));
  std::string_view secret(buffer, n < 0 ? 0 : static_cast<std::size_t>(n));
  secret = secret.substr(0, secret.find('\n'));
  if (secret.ends_with('\r')) secret.remove_suffix(1);
  if (secret.empty() || !is_user(secret))
    return Error{
        Errc::invalid,
        fmt::format("password file '{}': expected 1 to 255 characters in its first line", path)};
  return std::string(secret);
}

}  // namespace

Result<IscsiUri> parse_iscsi_uri(std::string_view uri) {
  // Nor is it shown: what ends at a blank for public_uri() may be a password's beginning.
  if (uri.find_first_of(" \t\r\n") != uri.npos)
    return Error{Errc::invalid, "leg 'iscsi://…': it holds a blank: expected %20 for each"};
  // Nor what a raw ? or / tears apart: the pieces would be shown as something else.
  constexpr std::string_view before = "iscsi://";
  std::string_view authority = uri.starts_with(before) ? uri.substr(before.size()) : "";
  authority = authority.substr(0, authority.find('/'));
  const bool torn = authority.find('?') != authority.npos ||
                    (authority.find('@') == authority.npos &&
                     authority.find('%') != authority.npos && !authority.starts_with('['));
  if (torn && uri.find('@') != uri.npos)
    return Error{
        Errc::invalid,
        "leg 'iscsi://…': a ? or a / stands before the @ of its password: expected %3F for "
        "each ?, %2F for each /"};
  auto result = parse(uri);
  if (result) return result;
  return Error{result.code(),
               fmt::format("leg {}: {}", quoted(public_uri(uri)), result.error().message)};
}

Result<void> read_passwords(IscsiUri& uri) {
  if (!uri.password_file.empty()) {
    auto secret = read_secret(uri.password_file);
    if (!secret) return secret.error();
    uri.password = std::move(*secret);
  }
  if (!uri.target_password_file.empty()) {
    auto secret = read_secret(uri.target_password_file);
    if (!secret) return secret.error();
    uri.target_password = std::move(*secret);
  }
  // RFC 7143 12.1.3: else one side's answer can be played back as the other's.
  if (!uri.target_password.empty() && uri.target_password == uri.password)
    return Error{Errc::invalid, "mutual CHAP: expected two different passwords"};
  return {};
}

std::string portal_text(const IscsiUri& uri) {
  return uri.host.find(':') == std::string::npos ? fmt::format("{}:{}", uri.host, uri.port)
                                                 : fmt::format("[{}]:{}", uri.host, uri.port);
}

}  // namespace blockloom
