#include "proto/dump/flattened.hpp"

#include <algorithm>

namespace blockloom::dump {
namespace {

constexpr std::size_t checked_header = 32;  // signature, type, version; zeros follow
constexpr std::size_t record_header = 16;

}  // namespace

std::string_view to_string(FlattenedError error) noexcept {
  switch (error) {
    case FlattenedError::none:
      return "none";
    case FlattenedError::signature:
      return "it does not begin with makedumpfile's signature";
    case FlattenedError::version:
      return "its type or version is not 1";
    case FlattenedError::record:
      return "a record has a negative offset or a size that is not positive";
    case FlattenedError::too_large:
      return "a record lies beyond the largest dump";
  }
  return "unknown";
}

bool FlattenedParser::gather(ByteView& bytes, std::size_t wanted) {
  const std::size_t n = std::min<std::size_t>(wanted - state_.held, bytes.size());
  std::copy_n(bytes.begin(), n, state_.partial.begin() + state_.held);
  state_.held += static_cast<std::uint32_t>(n);
  state_.position += n;
  bytes = bytes.subspan(n);
  return state_.held == wanted;
}

FlattenedError FlattenedParser::take_header(ByteView& bytes) {
  if (state_.position < checked_header) {
    if (!gather(bytes, checked_header)) return FlattenedError::none;
    state_.held = 0;
    const std::byte* p = state_.partial.data();
    if (text_field(p, 16) != "makedumpfile") return FlattenedError::signature;
    if (be64(p + 16) != 1 || be64(p + 24) != 1) return FlattenedError::version;
  }
  const std::size_t n =
      std::min<std::uint64_t>(flattened_header_size - state_.position, bytes.size());
  state_.position += n;
  bytes = bytes.subspan(n);
  return FlattenedError::none;
}

FlattenedError FlattenedParser::take_record(ByteView& bytes) {
  if (!gather(bytes, record_header)) return FlattenedError::none;
  state_.held = 0;
  const std::uint64_t offset = be64(state_.partial.data());
  const std::uint64_t size = be64(state_.partial.data() + 8);
  constexpr std::uint64_t minus_one = ~std::uint64_t{0};
  if (offset == minus_one && size == minus_one) {
    state_.ended = true;
    return FlattenedError::none;
  }
  constexpr std::uint64_t sign = std::uint64_t{1} << 63;
  if ((offset & sign) != 0 || (size & sign) != 0 || size == 0) return FlattenedError::record;
  if (offset > largest_ || size > largest_ - offset) return FlattenedError::too_large;
  state_.record_offset = offset;
  state_.record_left = size;
  return FlattenedError::none;
}

FlattenedError FlattenedParser::feed(ByteView bytes, std::vector<ImagePiece>& pieces) {
  while (!bytes.empty() && error_ == FlattenedError::none) {
    if (state_.ended) {
      state_.position += bytes.size();
      break;
    }
    if (state_.position < flattened_header_size) {
      if (const auto error = take_header(bytes); error != FlattenedError::none)
        return failed(error);
      continue;
    }
    if (state_.record_left == 0) {
      if (const auto error = take_record(bytes); error != FlattenedError::none)
        return failed(error);
      continue;
    }
    const std::size_t n = std::min<std::uint64_t>(state_.record_left, bytes.size());
    pieces.push_back({state_.record_offset, bytes.first(n)});
    bytes = bytes.subspan(n);
    state_.position += n;
    state_.record_offset += n;
    state_.record_left -= n;
    state_.image_end = std::max(state_.image_end, state_.record_offset);
  }
  return error_;
}

}  // namespace blockloom::dump
