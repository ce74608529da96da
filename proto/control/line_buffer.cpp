#include "proto/control/line_buffer.hpp"

namespace blockloom::rpc {

void LineBuffer::append(std::string_view bytes) {
  if (overflowed_) return;
  if (start_ == data_.size()) {
    data_.clear();
    start_ = scanned_ = 0;
    // A long line's memory is not kept for the short ones that follow.
    if (data_.capacity() > 65536) data_.shrink_to_fit();
  } else if (start_ > data_.size() / 2) {
    data_.erase(0, start_);
    scanned_ -= start_;
    start_ = 0;
  }
  data_.append(bytes);
}

std::optional<std::string_view> LineBuffer::next() {
  for (;;) {
    const std::size_t end = data_.find('\n', scanned_);
    const std::size_t length = (end == std::string::npos ? data_.size() : end) - start_;
    if (overflowed_ || length > limit_) {
      overflowed_ = true;
      data_.clear();
      data_.shrink_to_fit();
      start_ = scanned_ = 0;
      return std::nullopt;
    }
    if (end == std::string::npos) {
      scanned_ = data_.size();
      return std::nullopt;
    }
    std::string_view line(data_.data() + start_, length);
    start_ = scanned_ = end + 1;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos) return line;
  }
}

}  // namespace blockloom::rpc
