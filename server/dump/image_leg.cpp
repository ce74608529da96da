#include "server/dump/image_leg.hpp"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace blockloom::dump {
namespace {

constexpr std::size_t readers_kept = 16;

class ImageLeg final : public Leg {
 public:
  ImageLeg(std::string name, std::uint64_t length,
           std::function<Result<std::unique_ptr<ImageReader>>()> open)
      : Leg(std::move(name)), length_(length), open_(std::move(open)) {}

  Bytes size() const noexcept override { return Bytes(round_up(length_, sector_size)); }
  bool read_only() const noexcept override { return true; }
  bool inline_only() const noexcept override { return true; }

 private:
  Submit do_submit(Io& io) noexcept override {
    switch (io.op) {
      case Op::read:
        return io.finish_inline(read(io));
      case Op::flush:
      case Op::cache:
        return io.finish_inline(Errc::ok);
      case Op::extents:
        return io.finish_inline(io.extents->add({io.length, false, false}) ? Errc::ok
                                                                           : Errc::limit);
      default:
        return io.finish_inline(Errc::read_only);
    }
  }

  Errc read(const Io& io) noexcept try {
    std::unique_ptr<ImageReader> reader;
    {
      const std::lock_guard lock(mutex_);
      if (!readers_.empty()) {
        reader = std::move(readers_.back());
        readers_.pop_back();
      }
    }
    if (!reader) {
      auto opened = open_();
      if (!opened) return opened.code();
      reader = std::move(*opened);
    }
    const std::span into(io.data, io.length.value);
    auto got = reader->read(io.offset.value, into);
    if (!got) return got.code();
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(*got), into.end(), std::byte{});
    const std::lock_guard lock(mutex_);
    if (readers_.size() < readers_kept) readers_.push_back(std::move(reader));
    return Errc::ok;
  } catch (...) {
    return Errc::no_memory;
  }

  const std::uint64_t length_;
  const std::function<Result<std::unique_ptr<ImageReader>>()> open_;
  std::mutex mutex_;  // protects what follows
  std::vector<std::unique_ptr<ImageReader>> readers_;
};

}  // namespace

std::shared_ptr<Leg> make_image_leg(std::string name, std::uint64_t length,
                                    std::function<Result<std::unique_ptr<ImageReader>>()> open) {
  return std::make_shared<ImageLeg>(std::move(name), length, std::move(open));
}

}  // namespace blockloom::dump
