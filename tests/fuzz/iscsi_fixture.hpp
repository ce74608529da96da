#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "proto/iscsi/pdu.hpp"
#include "server/device/registry.hpp"
#include "server/iscsi/connection.hpp"
#include "server/iscsi/node.hpp"

namespace blockloom::iscsi {

/// A socket that a test holds both ends of.
struct TestWire final : Wire, private Mailbox {
  Mailbox& mailbox() noexcept override { return *this; }
  void send_soon() noexcept override {}
  void read_soon() noexcept override { reading_again = true; }
  void tick_at(TimePoint) noexcept override {}
  void close() noexcept override { closed = true; }
  void over() noexcept override { is_over = true; }
  void wake() noexcept override {}
  using Mailbox::drain;

  bool closed = false, is_over = false, reading_again = false;
};

/// A node with one device in memory, and one connection to it.
class TestConnection {
 public:
  explicit TestConnection(Node& node) {
    node.count_in();
    Peer peer;
    peer.text = peer.local_text = "127.0.0.1:1";
    connection = std::make_shared<Connection>(node, wire, std::move(peer));
    connection->start();
  }
  ~TestConnection() {
    if (!wire.closed) connection->lost("the test is over");
    // What the units still have comes by mail.
    while (!wire.is_over)
      wire.drain();
    wire.drain();  // and what others posted before they knew
  }

  /// As from the socket; what is answered is added to `answers`.
  void pour(std::string_view bytes) {
    while (!bytes.empty() && !wire.closed) {
      wire.drain();
      turn();
      if (wire.closed || !connection->wants_read()) return;
      std::array<iovec, 2> space;
      const std::size_t places = connection->space(space);
      std::size_t taken = 0;
      for (std::size_t i = 0; i < places; ++i) {
        const std::size_t now = std::min(space[i].iov_len, bytes.size() - taken);
        std::memcpy(space[i].iov_base, bytes.data() + taken, now);
        taken += now;
      }
      bytes.remove_prefix(taken);
      connection->received(taken);
      turn();
    }
  }

  void turn() {
    std::array<iovec, SendQueue::max_iovecs> pieces;
    while (!wire.closed) {
      const std::size_t count = connection->gather(pieces);
      if (count == 0) break;
      std::size_t size = 0;
      for (std::size_t i = 0; i < count; ++i) {
        answers.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        size += pieces[i].iov_len;
      }
      connection->sent(size);
    }
    if (std::exchange(wire.reading_again, false) && !wire.closed) {
      connection->go_on();
      turn();
    }
  }

  void log_in(std::string_view more = {}) {
    std::string text = "InitiatorName=iqn.1993-08.org.debian:01:a";
    text.push_back('\0');
    text += "TargetName=" + std::string(default_target);
    text.push_back('\0');
    text += more;
    Bhs header;
    header.set8(0, 0x43);
    header.set8(1, 0x87);
    header.set_data_length(static_cast<std::uint32_t>(text.size()));
    header.set64(8, 0x8012345678010000);
    header.set32(24, 1);
    text.resize(padded(text.size()), '\0');
    pour({reinterpret_cast<const char*>(header.bytes.data()), bhs_size});
    pour(text);
  }

  TestWire wire;
  std::shared_ptr<Connection> connection;
  std::string answers;
};

}  // namespace blockloom::iscsi
