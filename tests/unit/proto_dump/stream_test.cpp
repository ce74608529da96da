#include "proto/dump/stream.hpp"

#include <random>

#include <doctest/doctest.h>
#include <isa-l.h>

#include "tests/unit/proto_dump/bytes_for_tests.hpp"

using namespace blockloom::dump;

namespace {

std::string hex(const unsigned char* bytes, std::size_t size) {
  std::string out(2 * size + 1, ' ');
  to_hex(bytes, size, out.data());
  out.pop_back();
  return out;
}

std::string sha256_of(std::string_view text) {
  Sha256 sum;
  sum.add(text.data(), text.size());
  unsigned char digest[Sha256::size];
  sum.finish(digest);
  return hex(digest, sizeof digest);
}

std::string hello(std::string_view more = "") {
  return "version=1\nhost=web1\nsession=00112233445566778899aabbccddeeff\n" + std::string(more);
}

std::string refusal(const std::string& text) {
  StreamHello out;
  return parse_stream_hello(as_bytes(text), out);
}

}  // namespace

TEST_CASE("CRC32C is the one that everybody means") {
  CHECK(crc32c(0, "123456789", 9) == 0xe3069283);
  CHECK(crc32c(0, "", 0) == 0);
  std::mt19937 random(1);
  std::vector<unsigned char> bytes(100003);
  for (unsigned char& b : bytes)
    b = static_cast<unsigned char>(random());
  for (const std::size_t size : {1, 7, 8, 9, 63, 4096, 100003}) {
    CAPTURE(size);
    const std::uint32_t ours = crc32c(0, bytes.data(), size);
    CHECK(ours == ~crc32_iscsi(bytes.data(), static_cast<int>(size), ~0u));
    CHECK(ours ==
          crc32c(crc32c(0, bytes.data(), size / 3), bytes.data() + size / 3, size - size / 3));
    CHECK(ours == crc32c_combine(crc32c(0, bytes.data(), size / 3),
                                 crc32c(0, bytes.data() + size / 3, size - size / 3),
                                 size - size / 3));
  }
}

TEST_CASE("SHA-256 and HMAC give the published values") {
  CHECK(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_of(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // RFC 4231, cases 2 and 6.
  unsigned char digest[Sha256::size];
  const std::string_view text = "what do ya want for nothing?";
  hmac_sha256("Jefe", 4, text.data(), text.size(), digest);
  CHECK(hex(digest, sizeof digest) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  const std::string key(131, '\xaa');
  const std::string_view long_key = "Test Using Larger Than Block-Size Key - Hash Key First";
  hmac_sha256(key.data(), key.size(), long_key.data(), long_key.size(), digest);
  CHECK(hex(digest, sizeof digest) ==
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST_CASE("a frame's header reads back, and a changed bit is seen") {
  const std::string frame = encode_frame(wire::data, 0x123456789a, "payload");
  REQUIRE(frame.size() == wire::header_size + 7);
  auto bytes = reinterpret_cast<const unsigned char*>(frame.data());
  wire::Header header;
  REQUIRE(wire::decode(bytes, header));
  CHECK(header.type == wire::data);
  CHECK(header.length == 7);
  CHECK(header.offset == 0x123456789a);
  CHECK(header.body_crc == crc32c(0, "payload", 7));
  for (std::size_t bit = 0; bit < 8 * wire::header_size; ++bit) {
    std::string damaged = frame;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    CHECK_FALSE(wire::decode(reinterpret_cast<const unsigned char*>(damaged.data()), header));
  }
}

TEST_CASE("lines read back, and what is not lines is refused") {
  StreamLines lines;
  REQUIRE(parse_stream_lines(as_bytes("a=1\nb=x=y\nc=\n"), lines));
  CHECK(lines["b"] == "x=y");
  CHECK(write_stream_lines(lines) == "a=1\nb=x=y\nc=\n");
  for (const char* bad : {"a", "a\n", "=1\n", "a=1", "a=1\na=2\n", "a=\x01\n"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_stream_lines(as_bytes(bad), lines));
  }
  CHECK(write_stream_lines({{"k", "two\nlines"}}) == "k=two lines\n");
}

TEST_CASE("a hello is taken, or refused with the reason") {
  StreamHello out;
  CHECK(parse_stream_hello(as_bytes(hello("kind=flattened\nchunk=65536\nsize=99\nwindow=7\n")),
                           out) == "");
  CHECK(out.host == "web1");
  CHECK(out.kind == ImageKind::flattened);
  CHECK(out.chunk == 65536);
  CHECK(out.size == 99);
  CHECK(refusal("x") == "the hello is not made of lines KEY=VALUE");
  CHECK(refusal("version=2\n") == "the hello's version is not 1");
  CHECK(refusal("version=1\nhost=../x\n").find("host") != std::string::npos);
  CHECK(refusal("version=1\nhost=a\nsession=zz\n").find("session") != std::string::npos);
  for (const char* bad : {"kind=jpeg\n", "chunk=100\n", "chunk=65537\n", "chunk=8388608\n",
                          "size=-1\n", "size=x\n", "window=1k\n", "proof=abc\n"}) {
    CAPTURE(bad);
    CHECK(refusal(hello(bad)) != "");
  }
}

TEST_CASE("the digest is of the chunks' sums and the length") {
  StreamDigest one, two;
  one.add(1);
  one.add(2);
  two.add(1);
  two.add(3);
  two.truncate(1);
  two.add(2);
  CHECK(one.finish(10) == two.finish(10));
  CHECK(one.finish(10) != one.finish(11));
  const auto digest = one.finish(10);
  CHECK(hex(digest.data(), digest.size()) ==
        sha256_of(std::string("\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\n", 16)));
}

TEST_CASE("a proof depends on every part of it") {
  const std::string proof = stream_proof("token", "aa", "ss", "hh");
  CHECK(proof.size() == 64);
  CHECK(proof != stream_proof("tokem", "aa", "ss", "hh"));
  CHECK(proof != stream_proof("token", "ab", "ss", "hh"));
  CHECK(proof != stream_proof("token", "aa", "st", "hh"));
  CHECK(proof != stream_proof("token", "aa", "ss", "hg"));
}
