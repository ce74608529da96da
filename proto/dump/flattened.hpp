#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "proto/dump/bytes.hpp"

namespace blockloom::dump {

// makedumpfile's flattened format (makedumpfile -F): a header of 4096 bytes, then records of
// offset, size and bytes that together make a dump file. Later records win over earlier ones.

inline constexpr std::size_t flattened_header_size = 4096;

/// Where a parser stands, to go on after a restart: plain numbers.
struct FlattenedState {
  std::uint64_t position = 0;       ///< bytes of the stream that were taken
  std::uint64_t record_offset = 0;  ///< where the next byte of the open record belongs
  std::uint64_t record_left = 0;
  std::uint64_t image_end = 0;  ///< the highest byte written, and one
  bool ended = false;           ///< the end marker was seen
  std::uint32_t held = 0;       ///< how many bytes of `partial` are set
  std::array<std::byte, 32> partial{};
};

enum class FlattenedError : std::uint8_t { none, signature, version, record, too_large };
std::string_view to_string(FlattenedError error) noexcept;

/// A piece of the dump file, inside the bytes that were fed.
struct ImagePiece {
  std::uint64_t offset = 0;
  ByteView bytes;
};

/// Rearranges a flattened stream as it comes, in pieces of any size. Copies nothing but the
/// record headers.
class FlattenedParser {
 public:
  /// `largest`: no byte of the image lies at or past this.
  explicit FlattenedParser(std::uint64_t largest, const FlattenedState& state = {})
      : largest_(largest), state_(state) {}

  /// Takes the next bytes and appends what they write. After an error nothing more is taken.
  /// Bytes after the end marker are ignored.
  FlattenedError feed(ByteView bytes, std::vector<ImagePiece>& pieces);

  bool ended() const noexcept { return state_.ended; }
  const FlattenedState& state() const noexcept { return state_; }

 private:
  FlattenedError take_header(ByteView& bytes);
  FlattenedError take_record(ByteView& bytes);
  bool gather(ByteView& bytes, std::size_t wanted);
  FlattenedError failed(FlattenedError error) noexcept { return error_ = error; }

  const std::uint64_t largest_;
  FlattenedState state_;
  FlattenedError error_ = FlattenedError::none;
};

}  // namespace blockloom::dump
