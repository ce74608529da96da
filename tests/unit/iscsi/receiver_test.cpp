#include "server/iscsi/receiver.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "proto/iscsi/digest.hpp"

using namespace blockloom::iscsi;

namespace {

/// Keeps what came, and pours a stream into a receiver in pieces.
struct Sink final : PduHandler {
  struct Got {
    Bhs header;
    std::size_t ahs = 0;
    std::string data;
    bool digest_good = false;
  };
  std::vector<Got> got;
  std::size_t room = 1 << 20;
  int broken_times = 0;
  RejectReason reason{};
  Receiver receiver{*this};
  std::size_t direct = 0;  ///< bytes that came straight to their place

  std::span<std::byte> header(const Bhs& h, std::span<const std::uint8_t> ahs) override {
    got.push_back(
        {h, ahs.size(), std::string(std::min<std::size_t>(room, h.data_length()), '?'), false});
    return std::as_writable_bytes(std::span(got.back().data));
  }
  void end(bool digest_good) override { got.back().digest_good = digest_good; }
  void broken(RejectReason why, const Bhs&) override {
    ++broken_times;
    reason = why;
  }

  void pour(std::string_view stream, std::size_t piece) {
    while (!stream.empty()) {
      std::array<iovec, 2> space;
      const std::size_t places = receiver.space(space);
      std::size_t taken = 0;
      for (std::size_t i = 0; i < places && taken < piece; ++i) {
        const std::size_t now = std::min({space[i].iov_len, piece - taken, stream.size() - taken});
        std::memcpy(space[i].iov_base, stream.data() + taken, now);
        if (places == 2 && i == 0) direct += now;
        taken += now;
      }
      REQUIRE(taken > 0);
      receiver.received(taken);
      stream.remove_prefix(taken);
    }
  }
};

std::string pdu(std::size_t length, bool header_digest, bool data_digest, char fill,
                std::size_t ahs_words = 0) {
  Bhs header;
  header.set8(0, 1);
  header.set8(4, static_cast<std::uint8_t>(ahs_words));
  header.set_data_length(static_cast<std::uint32_t>(length));
  std::string text(reinterpret_cast<const char*>(header.bytes.data()), bhs_size);
  text.append(ahs_words * 4, 'a');
  const auto digest = [](std::string_view bytes) {
    const std::uint32_t value = crc32c(bytes.data(), bytes.size());
    return std::string(reinterpret_cast<const char*>(&value), 4);
  };
  if (header_digest) text += digest(text);
  std::string data(length, fill);
  data.resize(padded(length), '\0');
  text += data;
  if (data_digest && length > 0) text += digest(data);
  return text;
}

}  // namespace

TEST_CASE("PDUs of all sizes, in pieces of all sizes, with and without digests") {
  constexpr std::size_t lengths[] = {0, 1, 3, 4, 512, 4095, 9000, 70000, 262144, 0, 20000, 5};
  for (const bool header_digest : {false, true}) {
    for (const bool data_digest : {false, true}) {
      std::string stream;
      char fill = 'A';
      for (const std::size_t length : lengths)
        stream += pdu(length, header_digest, data_digest, fill++, length % 5);
      for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{1460},
                                      std::size_t{65536}, std::size_t{1} << 30}) {
        CAPTURE(piece);
        Sink sink;
        sink.receiver.set_limit(262144);
        sink.receiver.set_digests(header_digest, data_digest);
        sink.pour(stream, piece);
        REQUIRE(sink.got.size() == std::size(lengths));
        CHECK(sink.broken_times == 0);
        fill = 'A';
        for (std::size_t i = 0; i < std::size(lengths); ++i, ++fill) {
          CHECK(sink.got[i].data == std::string(lengths[i], fill));
          CHECK(sink.got[i].ahs == lengths[i] % 5 * 4);
          CHECK(sink.got[i].digest_good);
        }
      }
    }
  }
}

TEST_CASE("long data go straight to their place") {
  Sink sink;
  sink.receiver.set_limit(262144);
  sink.pour(pdu(262144, false, false, 'x') + pdu(4096, false, false, 'y'), 1 << 30);
  CHECK(sink.direct > 190000);  // all but what came with the header
  CHECK(sink.got[1].data == std::string(4096, 'y'));
}

TEST_CASE("what finds no room is passed over, and counted in the digest") {
  Sink sink;
  sink.room = 10;
  sink.receiver.set_limit(262144);
  sink.receiver.set_digests(false, true);
  sink.pour(pdu(100000, false, true, 'x') + pdu(5, false, true, 'y'), 5000);
  REQUIRE(sink.got.size() == 2);
  CHECK(sink.got[0].data == "xxxxxxxxxx");
  CHECK(sink.got[0].digest_good);
  CHECK(sink.got[1].data == "yyyyy");
}

TEST_CASE("a wrong header digest stops everything") {
  std::string stream = pdu(4, true, false, 'x');
  stream[49] ^= 1;
  Sink sink;
  sink.receiver.set_digests(true, false);
  sink.pour(stream + pdu(4, true, false, 'y'), 1 << 20);
  CHECK(sink.got.empty());
  CHECK(sink.broken_times == 1);
  CHECK(sink.reason == RejectReason::protocol_error);
}

TEST_CASE("a wrong data digest is told, and the next PDU is understood") {
  std::string stream = pdu(600, false, true, 'x');
  stream.back() ^= 1;
  Sink sink;
  sink.receiver.set_digests(false, true);
  sink.pour(stream + pdu(4, false, true, 'y'), 100);
  REQUIRE(sink.got.size() == 2);
  CHECK_FALSE(sink.got[0].digest_good);
  CHECK(sink.got[1].digest_good);
}

TEST_CASE("a data segment longer than declared stops everything") {
  Sink sink;
  sink.receiver.set_limit(8192);
  sink.pour(pdu(8192, false, false, 'x') + pdu(8193, false, false, 'y'), 1 << 20);
  CHECK(sink.got.size() == 1);
  CHECK(sink.broken_times == 1);
  CHECK(sink.reason == RejectReason::invalid_field);
}

TEST_CASE("paused, it keeps what came, and goes on when told") {
  Sink sink;
  sink.receiver.pause();
  sink.pour(pdu(4, false, false, 'x') + pdu(4, false, false, 'y'), 1 << 20);
  CHECK(sink.got.empty());
  sink.receiver.go_on();
  sink.receiver.process();
  CHECK(sink.got.size() == 2);
}

TEST_CASE("a place that is forgotten is not written to any more") {
  Sink sink;
  sink.receiver.set_limit(262144);
  const std::string stream = pdu(100000, false, false, 'x');
  sink.pour(stream.substr(0, 20000), 1 << 20);
  std::string& data = sink.got[0].data;
  const auto* const place = reinterpret_cast<const std::byte*>(data.data());
  CHECK_FALSE(sink.receiver.forget(place + data.size(), 10));
  CHECK(sink.receiver.forget(place, data.size()));
  const std::string before = data;
  sink.pour(stream.substr(20000) + pdu(3, false, false, 'y'), 1 << 20);
  REQUIRE(sink.got.size() == 2);
  CHECK(sink.got[0].data == before);
  CHECK(sink.got[1].data == "yyy");
}
