#include "proto/iscsi/chap.hpp"

#include <string>

#include <doctest/doctest.h>

#include "proto/iscsi/text.hpp"

using namespace blockloom::iscsi;

namespace {

std::string counting(std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i)
    bytes.push_back(static_cast<char>(i));
  return bytes;
}

const std::string random33 = "\x2a" + counting(32);

ChapSettings settings() {
  ChapSettings chap;
  chap.users = {{"joe", "secret-of-12-b"}, {"ann", "another-secret"}};
  return chap;
}

std::string answer(const Chap& chap, const std::string& secret) {
  return encode_hex(*chap_response(chap.algorithm(), chap.identifier(), secret, chap.challenge()));
}

}  // namespace

TEST_CASE("the four hash functions over identifier, secret and challenge") {
  const auto hash = [](ChapAlgorithm algorithm) {
    return encode_hex(chap_response(algorithm, 0x2a, "secret-of-12-b", counting(32)).value());
  };
  CHECK(hash(ChapAlgorithm::md5) == "0x483c89ae5061ca8211d871b6fe2716ea");
  CHECK(hash(ChapAlgorithm::sha1) == "0x3db01ca9275e7e97ed4d87ca907fddf742f2587e");
  CHECK(hash(ChapAlgorithm::sha256) ==
        "0xde1f93945f808b44b00561a0ea18cf0cdc77c07727b0aca1a45beeb82f7b9fe2");
  CHECK(hash(ChapAlgorithm::sha3_256) ==
        "0x1f7c806f9cf0455fd519032a6c552eed91ff0834e19402c1e4bfb445bfdff57f");
}

TEST_CASE("of what the initiator offers, this side's order decides") {
  ChapSettings chap = settings();
  Chap best(chap);
  REQUIRE(best.choose("5,6,7,8", random33));
  CHECK(best.algorithm() == ChapAlgorithm::sha3_256);
  CHECK(best.challenge().size() == 32);
  Chap old(chap);
  REQUIRE(old.choose("5", random33));
  CHECK(old.algorithm() == ChapAlgorithm::md5);
  CHECK(old.challenge().size() == 16);
  chap.algorithms = {ChapAlgorithm::sha1, ChapAlgorithm::sha256};
  Chap ours(chap);
  REQUIRE(ours.choose("7,6,5", random33));
  CHECK(ours.algorithm() == ChapAlgorithm::sha1);
  CHECK_FALSE(Chap(chap).choose("5", random33));
}

TEST_CASE("an algorithm's number is a whole item of the list") {
  const ChapSettings chap = settings();
  for (const char* list : {"56", "", "0", "05", "5 ", "five", "5;6", "65"})
    CHECK_FALSE_MESSAGE(Chap(chap).choose(list, random33), list);
  CHECK(Chap(chap).choose("56,5", random33));
}

TEST_CASE("without enough randomness nothing is chosen") {
  CHECK_FALSE(Chap(settings()).choose("5", "short"));
}

TEST_CASE("who knows the secret is let in, in hexadecimal and base64") {
  const ChapSettings chap = settings();
  Chap one(chap);
  REQUIRE(one.choose("5", random33));
  CHECK(one.verify("joe", answer(one, "secret-of-12-b")));
  CHECK(one.user() == "joe");
  CHECK(one.verify("ann", answer(one, "another-secret")));
}

TEST_CASE("a wrong secret, a wrong name, a malformed or oversize answer are refused") {
  const ChapSettings chap = settings();
  Chap one(chap);
  REQUIRE(one.choose("7", random33));
  CHECK_FALSE(one.verify("joe", answer(one, "another-secret")));
  CHECK_FALSE(one.verify("ann", answer(one, "secret-of-12-b")));
  CHECK_FALSE(one.verify("bob", answer(one, "secret-of-12-b")));
  CHECK_FALSE(one.verify("bob", answer(one, one.challenge())));  // what strangers are hashed with
  CHECK_FALSE(one.verify("joe", "0x"));
  CHECK_FALSE(one.verify("joe", "hello"));
  CHECK_FALSE(one.verify("joe", "0x" + std::string(4000, 'a')));
  const std::string right = answer(one, "secret-of-12-b");
  CHECK_FALSE(one.verify("joe", right.substr(0, right.size() - 2)));
  CHECK_FALSE(one.verify("joe", right + "00"));
  CHECK(one.verify("joe", right));
}

TEST_CASE("this side proves itself when it is asked to, and can") {
  ChapSettings chap = settings();
  Chap alone(chap);
  REQUIRE(alone.choose("5", random33));
  CHECK_FALSE(alone.prove("7", "0x01020304"));  // no mutual secret
  chap.mutual = {"target", "the-targets-own"};
  Chap both(chap);
  REQUIRE(both.choose("7", random33));
  const auto proof = both.prove("7", "0x01020304");
  REQUIRE(proof.has_value());
  CHECK(proof->name == "target");
  CHECK(proof->response ==
        chap_response(ChapAlgorithm::sha256, 7, "the-targets-own", "\x01\x02\x03\x04"));
  CHECK_FALSE(both.prove("256", "0x01020304"));
  CHECK_FALSE(both.prove("7", "0x"));
  CHECK_FALSE(both.prove("7", "0x" + std::string(2 * max_chap_bytes + 2, '1')));
  CHECK(both.prove("7", "0x" + std::string(2 * max_chap_bytes, '1')));
}

TEST_CASE("an initiator that sends our own challenge back gets no answer to it") {
  ChapSettings chap = settings();
  chap.mutual = {"target", "the-targets-own"};
  Chap one(chap);
  REQUIRE(one.choose("5", random33));
  CHECK_FALSE(one.prove("42", encode_hex(one.challenge())));
  CHECK(one.why().find("challenge back") != std::string::npos);
}

TEST_CASE("names of the algorithms read back") {
  for (const auto algorithm : ChapSettings().algorithms)
    CHECK(chap_algorithm(to_string(algorithm)) == algorithm);
  CHECK_FALSE(chap_algorithm("md4"));
}
