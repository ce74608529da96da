#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sys/uio.h>

#include "proto/iscsi/digest.hpp"
#include "proto/iscsi/pdu.hpp"

namespace blockloom::iscsi {

/// Who takes the PDUs of a connection. Calls come in this order: header, end.
class PduHandler {
 public:
  /// A header, its digest checked. Where its data segment goes, before end(); what finds no room
  /// there is thrown away. The AHSs hold only during the call.
  virtual std::span<std::byte> header(const Bhs& header, std::span<const std::uint8_t> ahs) = 0;
  /// The data are all there.
  virtual void end(bool digest_good) = 0;
  /// Nothing more can be understood of this connection: a header digest is wrong, or a data
  /// segment is longer than was declared.
  virtual void broken(RejectReason reason, const Bhs& header) = 0;

 protected:
  ~PduHandler() = default;
};

/// Cuts a stream of bytes into PDUs. Small ones come many at a time into the stage; the long data
/// of a task goes from the socket straight to its place.
class Receiver {
 public:
  static constexpr std::size_t stage_size = 65536;

  explicit Receiver(PduHandler& handler) noexcept : handler_(handler) {}

  void set_digests(bool header, bool data) noexcept {
    header_digest_ = header;
    data_digest_ = data;
  }
  /// Longest data segment that is taken.
  void set_limit(std::uint32_t bytes) noexcept { limit_ = bytes; }

  /// Where the next bytes go: one or two places. Allocates the stage if there is none.
  std::size_t space(std::span<iovec, 2> out);
  /// So many bytes came there. Handles every PDU that is whole, unless paused.
  void received(std::size_t bytes);
  /// What was held back by pause().
  void process();

  /// From now on process() returns before the next PDU. For a handler.
  void pause() noexcept { paused_ = true; }
  void go_on() noexcept { paused_ = false; }
  bool paused() const noexcept { return paused_; }
  /// Nothing is handled any more.
  void stop() noexcept { stopped_ = true; }

  /// The rest of the data segment under way is thrown away: its place goes. True if it went to
  /// [from, from + length).
  bool forget(const std::byte* from, std::size_t length) noexcept;

  /// An empty stage goes, so that idle connections hold none; space() gets another.
  void release_stage() noexcept;

 private:
  bool take_header();
  bool take_data();
  void take_bytes(const std::byte* from, std::size_t length) noexcept;

  PduHandler& handler_;
  std::unique_ptr<std::byte[]> stage_;
  std::size_t begin_ = 0, end_ = 0;  // of what is in the stage
  std::uint32_t limit_ = 8192;
  bool header_digest_ = false, data_digest_ = false;
  bool paused_ = false, stopped_ = false, busy_ = false;

  // The data segment under way.
  bool in_data_ = false;
  std::span<std::byte> place_;  // what is left of it
  std::size_t data_left_ = 0;
  std::size_t trailer_left_ = 0;  // padding and digest
  std::size_t trailer_size_ = 0;
  std::size_t direct_ = 0;  // what space() offered of place_
  std::size_t data_size_ = 0;
  Crc32c crc_;
  std::uint32_t digest_ = 0;
};

}  // namespace blockloom::iscsi
