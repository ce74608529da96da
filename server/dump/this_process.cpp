#include "server/dump/this_process.hpp"

#include <string>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>

#include "proto/dump/crc32c.hpp"
#include "proto/text/number.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

std::string file_text(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto text = fd ? read_up_to(fd.get(), 4096) : Result<std::string>(std::string());
  return text ? std::move(*text) : std::string();
}

}  // namespace

std::uint64_t boot_number() {
  const std::string text = file_text("/proc/sys/kernel/random/boot_id");
  return text.empty() ? 0 : crc32c(0, text.data(), text.size());
}

std::uint64_t process_start(std::uint32_t pid) {
  // proc(5): field 22; the second one, in parentheses, may hold blanks.
  const std::string text = file_text(fmt::format("/proc/{}/stat", pid));
  std::string_view rest = text;
  rest.remove_prefix(std::min(rest.size(), rest.rfind(')') + 1));
  for (int field = 2; field < 22 && !rest.empty(); ++field)
    rest.remove_prefix(std::min(rest.size(), rest.find(' ') + 1));
  std::uint64_t ticks = 0;
  parse_whole(rest.substr(0, rest.find(' ')), ticks);
  return ticks;
}

}  // namespace blockloom::dump
