#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace blockloom::rpc {

/// Cuts a stream of bytes into lines: one JSON text each, ended by \n or \r\n. Bounded: a line
/// over the limit is an error that stays, for where the next one begins is unknown.
class LineBuffer {
 public:
  explicit LineBuffer(std::size_t limit) : limit_(limit) {}

  void append(std::string_view bytes);

  /// The next whole line, without its end; nothing if it has not come yet. Blank lines are
  /// skipped. The view holds until the next call of a member.
  std::optional<std::string_view> next();

  /// True when the line that is coming is longer than the limit.
  bool overflowed() const noexcept { return overflowed_; }

  /// Bytes kept for lines that were not taken.
  std::size_t size() const noexcept { return data_.size() - start_; }

 private:
  std::size_t limit_;
  std::string data_;
  std::size_t start_ = 0;    // of the next line
  std::size_t scanned_ = 0;  // no line end before this
  bool overflowed_ = false;
};

}  // namespace blockloom::rpc
