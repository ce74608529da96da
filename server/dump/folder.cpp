// The folder back end: HOST/TIME/vmcore and its small files.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <map>
#include <mutex>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/dump/back_end.hpp"
#include "server/dump/fd.hpp"
#include "server/dump/file_target.hpp"

namespace blockloom::dump {
namespace {

constexpr std::uint64_t reserve_bytes = 4u << 20;
constexpr const char* lock_name = ".blockloom-lock";
constexpr const char* reserve_name = ".blockloom-reserve";
// Begins with a dot, so that it is taken for no dump.
constexpr const char* log_name = ".netconsole.log";
constexpr off_t log_bytes = 4 << 20;
constexpr const char* unfinished_image = "vmcore-incomplete";

/// What a directory holds, but for names that begin with a dot.
Result<std::vector<std::string>> names_in(int folder, const std::string& what) {
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = copy < 0 ? nullptr : ::fdopendir(copy);
  if (dir == nullptr) {
    const int reason = errno;
    if (copy >= 0) ::close(copy);
    return system_error(what, reason);
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(dir))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

Result<UniqueFd> open_folder_at(int parent, const std::string& name, bool make) {
  if (make && ::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST)
    return system_error(name, errno);
  // O_NOFOLLOW: a link that somebody put there leads nowhere.
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return system_error(name, errno);
  return fd;
}

class FileReader final : public ImageReader {
 public:
  explicit FileReader(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return read_at(fd_.get(), offset, into);
  }

 private:
  const UniqueFd fd_;
};

class Folder final : public BackEnd {
 public:
  Folder(std::string path, UniqueFd folder, UniqueFd lock)
      : path_(std::move(path)), folder_(std::move(folder)), lock_(std::move(lock)) {}

  std::string name() const override { return path_; }

  Result<std::vector<DumpId>> list() override {
    std::vector<DumpId> ids;
    auto hosts = names_in(folder_.get(), path_);
    if (!hosts) return hosts.error();
    for (const std::string& host : *hosts) {
      auto fd = open_folder_at(folder_.get(), host, false);
      if (!fd) continue;  // a file of somebody else
      auto times = names_in(fd->get(), path_ + "/" + host);
      if (!times) return times.error();
      for (const std::string& time : *times)
        if (auto id = parse_dump_id(host + "/" + time)) ids.push_back(*id);
    }
    return ids;
  }

  Result<void> create(const DumpId& id) override {
    auto host = open_folder_at(folder_.get(), id.host, true);
    if (!host) return failed(id, "", host.error());
    if (::mkdirat(host->get(), id.time.c_str(), 0700) != 0)
      return system_error(where(id, ""), errno);
    ::fsync(host->get());
    ::fsync(folder_.get());
    return {};
  }

  Result<void> remove(const DumpId& id) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    auto names = names_in(fd->get(), where(id, ""));
    if (!names) return names.error();
    // The record last: what a crash leaves is still known as a dump.
    std::stable_partition(names->begin(), names->end(),
                          [](const std::string& n) { return n != "record.json"; });
    for (const std::string& name : *names)
      if (::unlinkat(fd->get(), name.c_str(), 0) != 0 && errno != ENOENT)
        return system_error(where(id, name), errno);
    auto host = open_folder_at(folder_.get(), id.host, false);
    if (!host) return host.error();
    if (::unlinkat(host->get(), id.time.c_str(), AT_REMOVEDIR) != 0)
      return system_error(where(id, ""), errno);
    ::fsync(host->get());
    ::unlinkat(folder_.get(), id.host.c_str(), AT_REMOVEDIR);  // if it was the last
    return {};
  }

  std::unique_ptr<DumpTarget> image(const DumpId& id, bool resume) override {
    return make_file_target(where(id, unfinished_image), resume);
  }

  Result<void> name_image(const DumpId& id, std::string_view name) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    if (::renameat(fd->get(), unfinished_image, fd->get(), std::string(name).c_str()) != 0)
      return system_error(where(id, name), errno);
    if (::fsync(fd->get()) != 0) return system_error(where(id, ""), errno);
    return {};
  }

  Result<std::unique_ptr<ImageReader>> open_image(const DumpId& id,
                                                  std::string_view image_name) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    const std::string name(image_name.empty() ? unfinished_image : image_name);
    UniqueFd in(::openat(fd->get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!in) return system_error(where(id, name), errno);
    return std::unique_ptr<ImageReader>(std::make_unique<FileReader>(std::move(in)));
  }

  Result<std::vector<DumpRun>> runs(const DumpId& id, std::string_view image_name,
                                    std::uint64_t length) override {
    const std::string name(image_name.empty() ? unfinished_image : image_name);
    return std::vector<DumpRun>{{where(id, name), 0, length}};
  }

  Result<void> put(const DumpId& id, std::string_view file, std::string_view bytes) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    const std::string name(file), temporary = name + ".new";
    {
      UniqueFd out(::openat(fd->get(), temporary.c_str(),
                            O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (!out) return system_error(where(id, file), errno);
      if (auto done = write_all(out.get(), bytes, 0); !done) return failed(id, file, done.error());
      if (::fsync(out.get()) != 0) return system_error(where(id, file), errno);
    }
    if (::renameat(fd->get(), temporary.c_str(), fd->get(), name.c_str()) != 0)
      return system_error(where(id, file), errno);
    if (::fsync(fd->get()) != 0) return system_error(where(id, file), errno);
    return {};
  }

  Result<void> write(const DumpId& id, std::string_view file, std::uint64_t offset,
                     std::string_view bytes) override {
    auto out = small_file(id, file);
    if (!out) return out.error();
    if (auto done = write_all(out->get(), bytes, offset); !done)
      return failed(id, file, done.error());
    return {};
  }

  Result<void> sync_file(const DumpId& id, std::string_view file) override {
    auto out = small_file(id, file);
    if (!out) return out.error();
    if (::fdatasync(out->get()) != 0) return system_error(where(id, file), errno);
    return {};
  }

  Result<std::optional<std::string>> get(const DumpId& id, std::string_view file,
                                         std::size_t most) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    UniqueFd in(::openat(fd->get(), std::string(file).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!in) {
      if (errno == ENOENT) return std::optional<std::string>();
      return system_error(where(id, file), errno);
    }
    auto bytes = read_up_to(in.get(), most);
    if (!bytes) return failed(id, file, bytes.error());
    return std::optional<std::string>(std::move(*bytes));
  }

  Result<void> erase(const DumpId& id, std::string_view file) override {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    if (::unlinkat(fd->get(), std::string(file).c_str(), 0) != 0 && errno != ENOENT)
      return system_error(where(id, file), errno);
    return {};
  }

  Result<void> append_log(std::string_view host, std::string_view text) override {
    auto fd = open_folder_at(folder_.get(), std::string(host), true);
    if (!fd) return Error{fd.code(), fmt::format("{}/{}", path_, fd.error().message)};
    UniqueFd out(::openat(fd->get(), log_name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    struct stat info {};
    const std::string name = fmt::format("{}/{}/{}", path_, host, log_name);
    if (!out || ::fstat(out.get(), &info) != 0) return system_error(name, errno);
    if (auto done = write_all(out.get(), text, static_cast<std::uint64_t>(info.st_size)); !done)
      return Error{done.code(), fmt::format("{}: {}", name, done.error().message)};
    const std::string old = std::string(log_name) + ".1";
    if (info.st_size > log_bytes) ::renameat(fd->get(), log_name, fd->get(), old.c_str());
    return {};
  }

  Result<Space> space() override {
    struct statvfs info {};
    if (::fstatvfs(folder_.get(), &info) != 0) return system_error(path_, errno);
    return Space{std::uint64_t{info.f_blocks} * info.f_frsize,
                 std::uint64_t{info.f_bavail} * info.f_frsize};
  }

  void free_reserve() noexcept override { ::unlinkat(folder_.get(), reserve_name, 0); }

  void keep_reserve() noexcept override {
    const UniqueFd fd(
        ::openat(folder_.get(), reserve_name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    // Without it records may fail on a full store; that is told when it happens.
    if (fd && ::fallocate(fd.get(), 0, 0, reserve_bytes) != 0)
      ::unlinkat(folder_.get(), reserve_name, 0);
  }

 private:
  std::string where(const DumpId& id, std::string_view file) const {
    return fmt::format("{}/{}{}{}", path_, id.text(), file.empty() ? "" : "/", file);
  }
  Error failed(const DumpId& id, std::string_view file, const Error& error) const {
    return {error.code, fmt::format("{}: {}", where(id, file), error.message)};
  }

  Result<UniqueFd> dump_folder(const DumpId& id) const {
    auto host = open_folder_at(folder_.get(), id.host, false);
    if (!host) return failed(id, "", host.error());
    auto fd = open_folder_at(host->get(), id.time, false);
    if (!fd) return failed(id, "", fd.error());
    return fd;
  }

  Result<UniqueFd> small_file(const DumpId& id, std::string_view file) const {
    auto fd = dump_folder(id);
    if (!fd) return fd.error();
    UniqueFd out(::openat(fd->get(), std::string(file).c_str(),
                          O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!out) return system_error(where(id, file), errno);
    return out;
  }

  const std::string path_;
  const UniqueFd folder_;
  const UniqueFd lock_;
};

}  // namespace

Result<std::unique_ptr<BackEnd>> open_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return system_error(fmt::format("dump store '{}'", path), errno);
  UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return system_error(fmt::format("dump store '{}'", path), errno);
  UniqueFd lock(::openat(folder.get(), lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return system_error(fmt::format("dump store '{}': lock", path), errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return Error{Errc::busy, fmt::format("dump store '{}' is in use by another server: give "
                                           "each server a folder of its own",
                                           path)};
    return system_error(fmt::format("dump store '{}': lock", path), errno);
  }
  auto made = std::make_unique<Folder>(path, std::move(folder), std::move(lock));
  made->keep_reserve();
  return std::unique_ptr<BackEnd>(std::move(made));
}

}  // namespace blockloom::dump
