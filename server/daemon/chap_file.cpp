#include <cerrno>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/daemon/config_iscsi.hpp"

namespace blockloom {
namespace {

constexpr std::size_t largest_secret_file = 1 << 20;
/// RFC 7143 9.2.1 wants 96 bits; Windows takes 12 to 16 bytes.
constexpr std::size_t shortest_secret = 12;
constexpr std::size_t longest_secret = 255;

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  constexpr std::string_view blanks = " \t\r";
  for (;;) {
    const std::size_t begin = line.find_first_not_of(blanks);
    if (begin == std::string_view::npos) return words;
    line.remove_prefix(begin);
    const std::size_t end = line.find_first_of(blanks);
    words.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return words;
    line.remove_prefix(end);
  }
}

Result<std::string> read_secrets(const std::string& path) {
  const std::string what = fmt::format("file of CHAP secrets '{}'", path);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return system_error(what, errno);
  struct stat st {};
  std::string text;
  Result<std::string> result(text);
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    result = Error{Errc::invalid, what + ": expected a regular file"};
  } else if ((st.st_mode & 0007) != 0) {
    result = Error{Errc::permission,
                   fmt::format("{}: everybody may read it (mode {:04o}): chmod o= '{}'", what,
                               st.st_mode & 07777, path)};
  } else {
    char buffer[4096];
    ssize_t n = 0;
    while ((n = ::read(fd, buffer, sizeof buffer)) > 0 && text.size() <= largest_secret_file)
      text.append(buffer, static_cast<std::size_t>(n));
    if (n < 0)
      result = system_error(what, errno);
    else
      result = std::move(text);
  }
  ::close(fd);
  return result;
}

Result<void> read_into(const std::string& path, iscsi::ChapSettings& chap) {
  if (path.empty()) return {};
  auto text = read_secrets(path);
  if (!text) return text.error();
  return parse_chap(*text, path, chap);
}

}  // namespace

Result<void> parse_chap(std::string_view text, const std::string& name, iscsi::ChapSettings& chap) {
  unsigned line_number = 0;
  const auto wrong = [&](std::string_view what) {
    return Error{Errc::invalid, fmt::format("{}:{}: {}", name, line_number, what)};
  };
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    ++line_number;
    const auto words = words_of(line);
    if (words.empty() || words[0].starts_with('#')) continue;
    if (words.size() != 3 || (words[0] != "initiator" && words[0] != "target"))
      return wrong("expected 'initiator NAME SECRET' or 'target NAME SECRET'");
    iscsi::ChapSettings::User user{std::string(words[1]), std::string(words[2])};
    if (user.secret.size() < shortest_secret || user.secret.size() > longest_secret)
      return wrong(
          fmt::format("the secret has {} bytes: expected {} to {} (Windows takes up to 16)",
                      user.secret.size(), shortest_secret, longest_secret));
    if (words[0] == "target") {
      if (!chap.mutual.name.empty()) return wrong("a second 'target': expected one");
      chap.mutual = std::move(user);
      continue;
    }
    for (const auto& known : chap.users)
      if (known.name == user.name) return wrong(fmt::format("'{}' is given twice", user.name));
    chap.users.push_back(std::move(user));
  }
  if (chap.users.empty()) return wrong("no 'initiator NAME SECRET' in it: nobody could log in");
  for (const auto& user : chap.users)
    if (user.secret == chap.mutual.secret)
      return wrong(
          fmt::format("the target has the secret of '{}': with one for both directions "
                      "an answer could be reflected",
                      user.name));
  return {};
}

Result<void> read_chap_files(iscsi::IscsiOptions& options) {
  if (auto r = read_into(options.discovery_chap_file, options.discovery_chap); !r) return r;
  for (iscsi::TargetOptions& target : options.targets)
    if (auto r = read_into(target.chap_file, target.chap); !r) return r;
  return {};
}

}  // namespace blockloom
