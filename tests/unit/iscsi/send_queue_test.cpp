#include "server/iscsi/send_queue.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "proto/iscsi/digest.hpp"

using namespace blockloom::iscsi;

namespace {

/// An item of several PDUs, each with the same data.
struct Item final : Outgoing {
  Item(std::size_t n, std::string text) : pdus(n), data(std::move(text)) {}
  bool next_frame(Frame& frame) noexcept override {
    frame.header.set8(0, 0x25);
    frame.header.set32(36, static_cast<std::uint32_t>(made++));
    frame.header.set_data_length(static_cast<std::uint32_t>(data.size()));
    frame.data = reinterpret_cast<const std::byte*>(data.data());
    frame.length = static_cast<std::uint32_t>(data.size());
    return made == pdus;
  }
  void sent() noexcept override { ++sent_times; }

  std::size_t pdus, made = 0;
  std::string data;
  int sent_times = 0;
};

/// Takes what there is, `piece` bytes at a time, as a socket that is often full.
std::string drain(SendQueue& queue, std::size_t piece) {
  std::string all;
  std::array<iovec, SendQueue::max_iovecs> pieces;
  while (const std::size_t count = queue.gather(pieces)) {
    std::size_t taken = 0;
    for (std::size_t i = 0; i < count && taken < piece; ++i) {
      const std::size_t now = std::min(pieces[i].iov_len, piece - taken);
      all.append(static_cast<const char*>(pieces[i].iov_base), now);
      taken += now;
    }
    queue.sent(taken);
  }
  return all;
}

std::string expected(std::size_t pdus, const std::string& data, bool header, bool digest) {
  std::string all;
  for (std::size_t i = 0; i < pdus; ++i) {
    Bhs bhs;
    bhs.set8(0, 0x25);
    bhs.set32(36, static_cast<std::uint32_t>(i));
    bhs.set_data_length(static_cast<std::uint32_t>(data.size()));
    all.append(reinterpret_cast<const char*>(bhs.bytes.data()), bhs_size);
    const auto crc = [&](const void* bytes, std::size_t length) {
      const std::uint32_t value = crc32c(bytes, length);
      all.append(reinterpret_cast<const char*>(&value), 4);
    };
    if (header) crc(bhs.bytes.data(), bhs_size);
    std::string segment = data;
    segment.resize(padded(data.size()), '\0');
    all += segment;
    if (digest && !data.empty()) crc(segment.data(), segment.size());
  }
  return all;
}

}  // namespace

TEST_CASE("the bytes are the same however many the socket takes at a time") {
  for (const bool header : {false, true}) {
    for (const bool digest : {false, true}) {
      for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{49},
                                      std::size_t{1000}, std::size_t{1} << 30}) {
        SendQueue queue;
        queue.set_digests(header, digest);
        Item a(1, ""), b(70, "some data"), c(3, std::string(1000, 'c'));
        queue.push(a);
        queue.push(b);
        queue.push(c);
        CHECK(queue.waiting() == 3);
        CHECK(drain(queue, piece) == expected(1, "", header, digest) +
                                         expected(70, "some data", header, digest) +
                                         expected(3, std::string(1000, 'c'), header, digest));
        CHECK(queue.empty());
        CHECK(queue.waiting() == 0);
        CHECK(a.sent_times + b.sent_times + c.sent_times == 3);
      }
    }
  }
}

TEST_CASE("PDUs are made only as the socket takes them") {
  SendQueue queue;
  Item item(1000, std::string(100000, 'x'));
  queue.push(item);
  std::array<iovec, SendQueue::max_iovecs> pieces;
  CHECK(queue.gather(pieces) > 0);
  CHECK(item.made < 20);  // about a MiB
}

TEST_CASE("what is dropped is told as sent, once, whatever was made of it") {
  SendQueue queue;
  Item a(1, "a"), b(100, "b"), c(1, "c");
  queue.push(a);
  queue.push(b);
  queue.push(c);
  std::array<iovec, SendQueue::max_iovecs> pieces;
  queue.gather(pieces);
  queue.sent(10);
  queue.drop();
  CHECK(queue.empty());
  CHECK(a.sent_times == 1);
  CHECK(b.sent_times == 1);
  CHECK(c.sent_times == 1);
}

TEST_CASE("digests begin after the PDU that switches them on") {
  struct Switch final : Outgoing {
    explicit Switch(SendQueue& q) : queue(q) {}
    bool next_frame(Frame&) noexcept override {
      queue.set_digests(true, true);
      return true;
    }
    void sent() noexcept override {}
    SendQueue& queue;
  };
  SendQueue queue;
  Switch last_of_login(queue);
  Item first(1, "data");
  queue.push(last_of_login);
  queue.push(first);
  CHECK(drain(queue, 1 << 20) == std::string(48, '\0') + expected(1, "data", true, true));
}
