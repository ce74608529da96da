#include "server/leg/memory_leg.hpp"

#include <cerrno>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/leg/fd_leg.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

// More is a typing error: memory is taken as it is written, never given back but by trim.
constexpr Bytes max_memory(1ULL << 40);
constexpr std::size_t max_memory_name = 128;

Result<std::shared_ptr<const int>> make_memory(Bytes size) {
  const int fd = memfd_create("blockloom-mem", MFD_CLOEXEC);
  if (fd < 0) return system_error("creating memory", errno);
  auto owner = own_fd(fd);
  if (ftruncate(fd, static_cast<off_t>(size.value)) != 0)
    return system_error("sizing memory", errno);
  return owner;
}

struct MemoryUri {
  Bytes size;
  std::string name;
};

Result<MemoryUri> parse_uri(std::string_view uri) {
  constexpr std::string_view scheme = "mem:", name_key = "name=";
  std::string_view rest = uri.substr(scheme.size());
  const auto mark = rest.find('?');
  const std::string_view query = mark == rest.npos ? std::string_view() : rest.substr(mark + 1);
  auto size = parse_size(rest.substr(0, mark), "size");
  if (!size) return size.error();
  if (size->value == 0 || *size > max_memory || size->value % sector_size != 0)
    return Error{Errc::invalid,
                 fmt::format("size {}: expected a multiple of 512 bytes from 512 to 1T",
                             quoted(rest.substr(0, mark)))};
  MemoryUri result{*size, {}};
  if (mark == rest.npos) return result;
  result.name = query.starts_with(name_key) ? query.substr(name_key.size()) : std::string_view();
  if (result.name.empty() || result.name.size() > max_memory_name)
    return Error{Errc::invalid, fmt::format("{}: expected name= with 1 to {} characters",
                                            quoted(query), max_memory_name)};
  return result;
}

Result<std::shared_ptr<Leg>> open_memory(std::string_view uri, LegContext& context,
                                         bool read_only) {
  const auto parsed = parse_uri(uri);
  if (!parsed) return parsed.error();
  const auto& [size, name] = parsed.value();
  if (!name.empty() && context.memories == nullptr)
    return Error{Errc::not_supported, "named memory is not available here"};
  auto fd = name.empty() ? make_memory(size) : context.memories->open(name, size);
  if (!fd) return fd.error();
  return std::shared_ptr<Leg>(
      std::make_shared<FdLeg>(std::string(uri), std::move(*fd), FdKind::file, size, read_only));
}

}  // namespace

Result<std::shared_ptr<const int>> NamedMemory::open(const std::string& name, Bytes size) {
  std::lock_guard lock(mutex_);
  std::erase_if(by_name_, [](const auto& entry) { return entry.second.expired(); });
  const auto found = by_name_.find(name);
  if (auto fd = found == by_name_.end() ? nullptr : found->second.lock()) {
    struct stat info {};
    if (fstat(*fd, &info) != 0) return system_error("examining memory", errno);
    if (static_cast<std::uint64_t>(info.st_size) != size.value)
      return Error{Errc::invalid,
                   fmt::format("the memory named {} has {} bytes: expected that size, or "
                               "another name",
                               quoted(name), info.st_size)};
    return fd;
  }
  auto fd = make_memory(size);
  if (fd) by_name_[name] = fd.value();
  return fd;
}

Result<std::shared_ptr<Leg>> open_memory_leg(std::string_view uri, bool read_only,
                                             LegContext& context) {
  auto leg = open_memory(uri, context, read_only);
  if (leg) return leg;
  return Error{leg.code(), fmt::format("leg {}: {}", quoted(uri), leg.error().message)};
}

}  // namespace blockloom
