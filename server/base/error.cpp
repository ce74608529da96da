#include "server/base/error.hpp"

#include <array>
#include <cerrno>
#include <system_error>

namespace blockloom {
namespace {

struct Row {
  Errc code;
  std::string_view name;
  int error_number;
};

// In the order of the enum: to_string() and to_errno() index it.
constexpr std::array rows{
    Row{Errc::ok, "ok", 0},
    Row{Errc::invalid, "invalid", EINVAL},
    Row{Errc::out_of_range, "out_of_range", ENOSPC},
    Row{Errc::not_found, "not_found", ENOENT},
    Row{Errc::exists, "exists", EEXIST},
    Row{Errc::busy, "busy", EBUSY},
    Row{Errc::loop, "loop", ELOOP},
    Row{Errc::read_only, "read_only", EROFS},
    Row{Errc::not_supported, "not_supported", EOPNOTSUPP},
    Row{Errc::no_space, "no_space", ENOSPC},
    Row{Errc::no_memory, "no_memory", ENOMEM},
    Row{Errc::permission, "permission", EACCES},
    Row{Errc::io, "io", EIO},
    Row{Errc::timed_out, "timed_out", ETIMEDOUT},
    Row{Errc::cancelled, "cancelled", ECANCELED},
    Row{Errc::removed, "removed", ENXIO},
    Row{Errc::shutdown, "shutdown", ESHUTDOWN},
    Row{Errc::limit, "limit", EAGAIN},
    Row{Errc::corrupt, "corrupt", EBADMSG},
};

constexpr bool in_enum_order() {
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (static_cast<std::size_t>(rows[i].code) != i) return false;
  return true;
}
static_assert(in_enum_order() && rows.size() == static_cast<std::size_t>(Errc::corrupt) + 1);

const Row& row(Errc code) noexcept {
  const auto index = static_cast<std::size_t>(code);
  return rows[index < rows.size() ? index : static_cast<std::size_t>(Errc::io)];
}

}  // namespace

std::string_view to_string(Errc code) noexcept {
  return row(code).name;
}

int to_errno(Errc code) noexcept {
  return row(code).error_number;
}

Errc from_errno(int error_number) noexcept {
  switch (error_number) {
    case 0:
      return Errc::ok;
    case ENXIO:
      return Errc::not_found;
    case EPERM:
      return Errc::permission;
    case ENODEV:
      return Errc::not_found;
    case ENOTSUP:
      return Errc::not_supported;
    case ENOTTY:
      return Errc::not_supported;
    case EDQUOT:
      return Errc::no_space;
    case EFBIG:
      return Errc::no_space;
    case ENOSPC:
      return Errc::no_space;
    default:
      break;
  }
  for (const Row& r : rows)
    if (r.error_number == error_number) return r.code;
  return Errc::io;
}

std::string quoted(std::string_view text) {
  constexpr std::size_t shown = 64;
  std::size_t size = text.size();
  if (size > shown)
    for (size = shown; size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80;)
      --size;  // into a character of several bytes
  std::string result = "'";
  for (const char c : text.substr(0, size))
    result += static_cast<unsigned char>(c) < ' ' || c == 0x7f ? '?' : c;
  return result + (size < text.size() ? "…'" : "'");
}

Error system_error(std::string_view what, int error_number) {
  std::string message(what);
  message += ": ";
  message += std::generic_category().message(error_number);
  return {from_errno(error_number), std::move(message)};
}

}  // namespace blockloom
