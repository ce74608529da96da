#include "server/iscsi/send_queue.hpp"

#include <cstddef>
#include <cstring>

#include "proto/iscsi/digest.hpp"

namespace blockloom::iscsi {

static_assert(offsetof(Frame, header_digest) == bhs_size);

void SendQueue::push(Outgoing& item) noexcept {
  item.next_ = nullptr;
  (last_ != nullptr ? last_->next_ : first_) = &item;
  last_ = &item;
  ++waiting_;
}

void SendQueue::prepare() noexcept {
  while (first_ != nullptr && frames_ < max_frames && prepared_bytes_ < enough_bytes) {
    Ready& ready = ring_[(begin_ + frames_) % max_frames];
    Outgoing& item = *first_;
    ready.frame = Frame{};
    ready.last_of = nullptr;
    const bool header_digest = header_digest_, data_digest = data_digest_;
    if (item.next_frame(ready.frame)) {
      ready.last_of = &item;
      first_ = item.next_;
      if (first_ == nullptr) last_ = nullptr;
    }
    Frame& frame = ready.frame;
    std::size_t trailer = padded(frame.length) - frame.length;
    ready.trailer.fill(0);
    if (data_digest && frame.length > 0) {
      Crc32c crc;
      crc.add(frame.data, frame.length);
      crc.add_padding(frame.length);
      const std::uint32_t value = crc.value();
      std::memcpy(ready.trailer.data() + trailer, &value, sizeof value);
      trailer += digest_size;
    }
    ready.trailer_length = static_cast<std::uint8_t>(trailer);
    if (header_digest) frame.header_digest = crc32c(frame.header.bytes.data(), bhs_size);
    ready.header_length = bhs_size + (header_digest ? digest_size : 0);
    ready.size = ready.header_length + frame.length + trailer;
    prepared_bytes_ += ready.size;
    ++frames_;
  }
}

std::size_t SendQueue::gather(std::span<iovec, max_iovecs> out) noexcept {
  prepare();
  std::size_t count = 0;
  std::size_t skip = sent_of_first_;
  const auto add = [&](const void* base, std::size_t length) {
    if (skip >= length) {
      skip -= length;
      return;
    }
    const auto* const bytes = static_cast<const std::byte*>(base) + skip;
    out[count++] = {const_cast<std::byte*>(bytes), length - skip};
    skip = 0;
  };
  for (std::size_t i = 0; i < frames_; ++i) {
    const Ready& ready = ring_[(begin_ + i) % max_frames];
    add(&ready.frame, ready.header_length);
    add(ready.frame.data, ready.frame.length);
    add(ready.trailer.data(), ready.trailer_length);
  }
  return count;
}

void SendQueue::sent(std::size_t bytes) noexcept {
  bytes += sent_of_first_;
  while (frames_ > 0 && bytes >= ring_[begin_].size) {
    Ready& ready = ring_[begin_];
    bytes -= ready.size;
    prepared_bytes_ -= ready.size;
    begin_ = (begin_ + 1) % max_frames;
    --frames_;
    if (Outgoing* const whole = ready.last_of) {
      --waiting_;
      whole->sent();
    }
  }
  sent_of_first_ = bytes;
}

void SendQueue::drop() noexcept {
  while (frames_ > 0) {
    Outgoing* const whole = ring_[begin_].last_of;
    begin_ = (begin_ + 1) % max_frames;
    --frames_;
    if (whole != nullptr) whole->sent();
  }
  while (first_ != nullptr) {
    Outgoing& item = *first_;
    first_ = item.next_;
    item.sent();
  }
  last_ = nullptr;
  waiting_ = prepared_bytes_ = sent_of_first_ = 0;
}

}  // namespace blockloom::iscsi
