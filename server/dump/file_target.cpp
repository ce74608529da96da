#include "server/dump/file_target.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/dump/range_set.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

/// Room is taken in steps of this, so that a write that was acknowledged cannot fail late.
constexpr std::uint64_t room_step = 16u << 20;

class FileTarget final : public DumpTarget {
 public:
  FileTarget(std::string path, bool resume) : path_(std::move(path)), resume_(resume) {}
  ~FileTarget() override { unconfigure(); }

  std::string name() const override { return path_; }

  Result<void> configure(const DumpPlan& plan) override {
    const int how = resume_ ? O_RDWR : O_RDWR | O_CREAT | O_EXCL;
    fd_ = UniqueFd(::open(path_.c_str(), how | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd_) return system_error(path_, errno);
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return system_error(path_, errno);
    if (!S_ISREG(info.st_mode)) return Error{Errc::invalid, path_ + ": not a regular file"};
    room_ = before_ = static_cast<std::uint64_t>(info.st_size);
    limits_.queue = std::max(plan.queue, 1u);
    done_.reserve(limits_.queue);
    return reserve(std::max(plan.expected, std::uint64_t{1}));
  }

  DumpLimits query() const noexcept override { return limits_; }

  Result<void> ready() override {
    std::byte probe{};
    if (::pread(fd_.get(), &probe, 1, 0) < 0) return system_error(path_ + ": read", errno);
    return {};
  }

  Result<void> reserve(std::uint64_t end) override {
    if (end <= room_ || !takes_room_) return {};
    const std::uint64_t upto = (end + room_step - 1) / room_step * room_step;
    while (::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(room_),
                       static_cast<off_t>(upto - room_)) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENOSYS) {
        takes_room_ = false;  // a file system that cannot: writes tell
        return {};
      }
      return system_error(path_ + ": reserve", errno);
    }
    room_ = upto;
    return {};
  }

  Result<void> start(std::span<const DumpWrite> batch) noexcept override {
    for (const DumpWrite& write : batch) {
      const auto done = write_all(fd_.get(), as_text(write.bytes), write.offset);
      known_ = written_.insert(write.offset, write.offset + write.bytes.size()) && known_;
      done_.push_back({write.tag, done.code()});
    }
    return {};
  }

  std::size_t poll(std::span<DumpCompletion> done, TimePoint) noexcept override {
    const std::size_t n = std::min(done.size(), done_.size());
    std::copy_n(done_.begin(), n, done.begin());
    done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(n));
    return n;
  }

  void abandon() noexcept override { done_.clear(); }

  Result<void> sync(TimePoint) override {
    if (::fdatasync(fd_.get()) != 0) return system_error(path_ + ": sync", errno);
    return {};
  }

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return read_at(fd_.get(), offset, into);
  }

  Result<void> finish(std::uint64_t length, TimePoint) override {
    if (::ftruncate(fd_.get(), static_cast<off_t>(length)) != 0)
      return system_error(path_ + ": truncate", errno);
    room_ = length;
    // Room that was taken and not written: zeros need none. What a full set no longer knows stays.
    for (const Range& hole : written_.holes(length))
      if (known_ && hole.begin >= before_)
        ::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(hole.begin), static_cast<off_t>(hole.size()));
    if (::fsync(fd_.get()) != 0) return system_error(path_ + ": sync", errno);
    return {};
  }

  void release() noexcept override {
    struct stat info {};
    // What was taken ahead and not written goes back.
    if (fd_ && ::fstat(fd_.get(), &info) == 0 && room_ > static_cast<std::uint64_t>(info.st_size))
        [[maybe_unused]]
      const int cut = ::ftruncate(fd_.get(), info.st_size);
  }

  void unconfigure() noexcept override { fd_ = UniqueFd(); }

 private:
  const std::string path_;
  const bool resume_;
  UniqueFd fd_;
  DumpLimits limits_;
  std::uint64_t room_ = 0;
  std::uint64_t before_ = 0;  // the size that was found; what is below is not ours to judge
  RangeSet written_;
  bool known_ = true;  // written_ has all of it
  bool takes_room_ = true;
  std::vector<DumpCompletion> done_;
};

}  // namespace

std::unique_ptr<DumpTarget> make_file_target(std::string path, bool resume) {
  return std::make_unique<FileTarget>(std::move(path), resume);
}

}  // namespace blockloom::dump
