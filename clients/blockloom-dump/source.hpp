#pragma once

#include <cstddef>
#include <cstdint>

namespace blockloom::sender {

/// Where the image comes from, in chunks. A file is read again after a broken connection; of a
/// pipe the chunks are kept until the server has them for good.
class Source {
 public:
  ~Source();

  /// False, and said why: cannot be opened, or no memory for the window.
  bool open(const char* path, std::uint32_t chunk, std::uint64_t window);

  /// The chunk at this offset, a multiple of the chunk's size; `size` 0 at the end. False: it
  /// cannot be read. The bytes last until the next call.
  bool read(std::uint64_t offset, const unsigned char** bytes, std::size_t& size);

  /// Chunks before this offset are not needed any more.
  void forget(std::uint64_t offset) { kept_from_ = offset; }
  /// No further chunk fits before forget(): a pipe whose window is full.
  bool full() const { return pipe_ && next_ - kept_from_ + chunk_ > capacity_; }

  std::uint64_t size() const { return size_; }  ///< 0: not known
  bool pipe() const { return pipe_; }
  std::uint64_t window() const { return capacity_; }

 private:
  bool fill(unsigned char* to, std::uint64_t offset, std::size_t& size);

  int fd_ = -1;
  bool pipe_ = false;
  std::uint32_t chunk_ = 0;
  std::uint64_t capacity_ = 0, size_ = 0;
  unsigned char* memory_ = nullptr;
  std::uint64_t kept_from_ = 0, next_ = 0;  // of a pipe: which offsets are in memory
  std::uint64_t end_ = UINT64_MAX;          // of a pipe: where it ended
};

}  // namespace blockloom::sender
