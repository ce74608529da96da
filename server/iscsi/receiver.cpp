#include "server/iscsi/receiver.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace blockloom::iscsi {
namespace {

/// Shorter rests go through the stage, with what follows them.
constexpr std::size_t direct_from = 8192;
/// Behind a long one only the next headers are wanted: more would have to be copied.
constexpr std::size_t stage_behind = 4096;

/// One stage is enough for all connections of a thread while they leave nothing in it.
thread_local std::unique_ptr<std::byte[]> spare_stage;

}  // namespace

std::size_t Receiver::space(std::span<iovec, 2> out) {
  if (!stage_) stage_ = std::move(spare_stage);
  if (!stage_) stage_ = std::make_unique_for_overwrite<std::byte[]>(stage_size);
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ > 0 && end_ > stage_size / 2) {
    std::memmove(stage_.get(), stage_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  iovec stage{stage_.get() + end_, stage_size - end_};
  direct_ = 0;
  if (in_data_ && begin_ == end_ && std::min(data_left_, place_.size()) >= direct_from) {
    direct_ = std::min(data_left_, place_.size());
    stage.iov_len = std::min(stage.iov_len, stage_behind);
    out[0] = {place_.data(), direct_};
    out[1] = stage;
    return 2;
  }
  out[0] = stage;
  return 1;
}

void Receiver::received(std::size_t bytes) {
  const std::size_t direct = std::min(bytes, direct_);
  direct_ = 0;
  if (direct > 0 && in_data_) {
    if (data_digest_) crc_.add(place_.data(), direct);
    place_ = place_.subspan(direct);
    data_left_ -= direct;
  }
  end_ += bytes - direct;
  process();
}

void Receiver::process() {
  if (busy_) return;
  busy_ = true;
  while (!stopped_ && (in_data_ ? take_data() : !paused_ && take_header())) {
  }
  busy_ = false;
}

bool Receiver::take_header() {
  const std::size_t digest = header_digest_ ? digest_size : 0;
  if (end_ - begin_ < bhs_size + digest) return false;
  const std::byte* const from = stage_.get() + begin_;
  Bhs header;
  std::memcpy(header.bytes.data(), from, bhs_size);
  const std::size_t whole = bhs_size + header.ahs_length() + digest;
  if (end_ - begin_ < whole) return false;
  if (header_digest_) {
    std::uint32_t told = 0;
    std::memcpy(&told, from + whole - digest, sizeof told);
    if (told != crc32c(from, whole - digest)) {
      stopped_ = true;
      handler_.broken(RejectReason::protocol_error, header);
      return false;
    }
  }
  const std::size_t length = header.data_length();
  if (length > limit_) {
    stopped_ = true;
    handler_.broken(RejectReason::invalid_field, header);
    return false;
  }
  begin_ += whole;
  in_data_ = true;
  data_left_ = data_size_ = length;
  trailer_left_ = trailer_size_ =
      padded(length) - length + (data_digest_ && length > 0 ? digest_size : 0);
  crc_ = Crc32c();
  digest_ = 0;
  const auto* const ahs = reinterpret_cast<const std::uint8_t*>(from + bhs_size);
  place_ = handler_.header(header, {ahs, header.ahs_length()});
  return true;
}

void Receiver::take_bytes(const std::byte* from, std::size_t length) noexcept {
  if (data_digest_) crc_.add(from, length);
  if (const std::size_t kept = std::min(length, place_.size()); kept > 0) {
    std::memcpy(place_.data(), from, kept);
    place_ = place_.subspan(kept);
  }
  data_left_ -= length;
}

bool Receiver::take_data() {
  if (data_left_ > 0) {
    const std::size_t now = std::min(data_left_, end_ - begin_);
    take_bytes(stage_.get() + begin_, now);
    begin_ += now;
    if (data_left_ > 0) return false;
  }
  while (trailer_left_ > 0) {
    if (begin_ == end_) return false;
    const std::uint8_t byte = static_cast<std::uint8_t>(stage_[begin_++]);
    const std::size_t at = trailer_size_ - trailer_left_--;
    const std::size_t padding = padded(data_size_) - data_size_;
    if (at >= padding)
      digest_ |= std::uint32_t{byte} << 8 * (at - padding);
    else if (data_digest_)
      crc_.add(&byte, 1);  // as it came, which need not be zero
  }
  in_data_ = false;
  place_ = {};
  handler_.end(!data_digest_ || data_size_ == 0 || digest_ == crc_.value());
  return true;
}

bool Receiver::forget(const std::byte* from, std::size_t length) noexcept {
  if (!in_data_ || place_.empty() || std::less<>()(place_.data(), from) ||
      !std::less<>()(place_.data(), from + length))
    return false;
  place_ = {};
  direct_ = 0;
  return true;
}

void Receiver::release_stage() noexcept {
  if (begin_ != end_ || !stage_) return;
  begin_ = end_ = 0;
  if (!spare_stage) spare_stage = std::move(stage_);
  stage_.reset();
}

}  // namespace blockloom::iscsi
