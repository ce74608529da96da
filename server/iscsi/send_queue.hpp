#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "proto/iscsi/pdu.hpp"

namespace blockloom::iscsi {

/// One PDU on its way out: header, header digest, data, padding, data digest.
struct Frame {
  Bhs header;
  std::uint32_t header_digest = 0;  ///< follows the header in memory as on the wire
  const std::byte* data = nullptr;
  std::uint32_t length = 0;
};

/// Something that becomes one or several PDUs when its turn has come. Its owner keeps it, with
/// the data of its frames, until sent() or dropped().
class Outgoing {
 public:
  virtual ~Outgoing() = default;
  /// Makes the next PDU; true: it is the last one. The counters (StatSN …) are taken now.
  virtual bool next_frame(Frame& frame) noexcept = 0;
  /// Every byte was handed to the socket, or the connection is closed. May destroy it.
  virtual void sent() noexcept = 0;

 private:
  friend class SendQueue;
  Outgoing* next_ = nullptr;
};

/// What waits to be sent on one connection, in order, and as iovecs for sendmsg. PDUs are made
/// only as the socket takes them, so that a long read costs no more memory than its data.
class SendQueue {
 public:
  static constexpr std::size_t max_iovecs = 128;

  SendQueue() = default;
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  /// For the PDUs after the one that is being made.
  void set_digests(bool header, bool data) noexcept {
    header_digest_ = header;
    data_digest_ = data;
  }

  void push(Outgoing& item) noexcept;
  bool empty() const noexcept { return frames_ == 0 && first_ == nullptr; }
  /// PDUs that wait, long reads counted as one.
  std::size_t waiting() const noexcept { return waiting_; }

  /// The next bytes to send; 0: nothing.
  std::size_t gather(std::span<iovec, max_iovecs> out) noexcept;
  /// So many of them were taken.
  void sent(std::size_t bytes) noexcept;

  /// The connection is closed: sent() for all.
  void drop() noexcept;

 private:
  static constexpr std::size_t max_frames = 32;
  /// More is not prepared ahead: the kernel's buffer is full first.
  static constexpr std::size_t enough_bytes = std::size_t{1} << 20;

  struct Ready {
    Frame frame;
    std::array<std::uint8_t, 8> trailer{};  // padding, digest
    std::uint8_t header_length = 0;         // with its digest
    std::uint8_t trailer_length = 0;
    Outgoing* last_of = nullptr;
    std::size_t size = 0;
  };

  void prepare() noexcept;

  std::array<Ready, max_frames> ring_;
  std::size_t begin_ = 0, frames_ = 0;
  std::size_t prepared_bytes_ = 0;
  std::size_t sent_of_first_ = 0;
  Outgoing* first_ = nullptr;
  Outgoing* last_ = nullptr;
  std::size_t waiting_ = 0;
  bool header_digest_ = false, data_digest_ = false;
};

}  // namespace blockloom::iscsi
