#include "server/leg/iscsi_login.hpp"

#include <map>

#include "proto/iscsi/chap.hpp"
#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using iscsi::Bhs;

namespace {

using Keys = std::map<std::string, std::string>;
using Step = IscsiLogin::Step;

/// What a target does in a login, by hand.
struct Login {
  IscsiUri uri;
  std::unique_ptr<IscsiLogin> login;
  Bhs request;
  Keys keys;

  explicit Login(const std::string& text = "iscsi://h/iqn.2026-01.x:y/1") {
    auto parsed = parse_iscsi_uri(text);
    REQUIRE(parsed);
    uri = parsed.value();
    uri.target_password = uri.target_user.empty() ? "" : "the target's own";
    login = std::make_unique<IscsiLogin>(uri, "iqn.2026-01.x:me", Isid{0x80, 1, 2, 3, 4, 5});
    next();
  }
  void next() {
    std::string data;
    request = login->request(data);
    keys.clear();
    const auto pairs = iscsi::parse_text(data);
    REQUIRE(pairs);
    for (const auto& pair : *pairs)
      keys[std::string(pair.key)] = pair.value;
  }
  unsigned stage() const { return request.u8(1) >> 2 & 3; }
  bool transit() const { return (request.u8(1) & 0x80) != 0; }

  Bhs header(bool transit, unsigned current, unsigned following) const {
    Bhs bhs = iscsi::make_response(iscsi::Opcode::login_response, 0, {7, 1, 64});
    bhs.set8(1, static_cast<std::uint8_t>((transit ? 0x80 : 0) | current << 2 | following));
    return bhs;
  }
  Step answer(const Bhs& bhs, const Keys& with) {
    iscsi::TextWriter text;
    for (const auto& [key, value] : with)
      text.add(key, value);
    const Step step = login->take(bhs, text.take());
    if (step == Step::send) next();
    return step;
  }
  Step security(bool transit, const Keys& with) {
    return answer(header(transit, 0, transit ? 1 : 0), with);
  }
  Step operational(bool transit, const Keys& with) {
    return answer(header(transit, 1, transit ? 3 : 0), with);
  }
  std::string why() const { return login->error().message; }
};

const Keys usual = {{"HeaderDigest", "None"},     {"DataDigest", "None"},
                    {"InitialR2T", "No"},         {"ImmediateData", "Yes"},
                    {"MaxBurstLength", "262144"}, {"FirstBurstLength", "65536"},
                    {"MaxOutstandingR2T", "1"},   {"MaxConnections", "1"},
                    {"ErrorRecoveryLevel", "0"},  {"MaxRecvDataSegmentLength", "8192"},
                    {"DefaultTime2Wait", "2"},    {"DefaultTime2Retain", "0"},
                    {"DataPDUInOrder", "Yes"},    {"DataSequenceInOrder", "Yes"}};

Keys with(Keys keys, const std::string& key, const std::string& value) {
  keys[key] = value;
  return keys;
}

}  // namespace

TEST_CASE("a login without CHAP takes two steps") {
  Login target;
  CHECK(target.keys["InitiatorName"] == "iqn.2026-01.x:me");
  CHECK(target.keys["TargetName"] == "iqn.2026-01.x:y");
  CHECK(target.keys["SessionType"] == "Normal");
  CHECK(target.keys["AuthMethod"] == "None");
  CHECK(target.stage() == 0);
  CHECK(target.transit());
  CHECK(target.request.u8(0) == 0x43);
  CHECK(target.request.u8(8) == 0x80);
  CHECK(target.request.u8(13) == 5);
  CHECK(target.request.cmd_sn() == IscsiLogin::first_cmd_sn);
  REQUIRE(target.security(true, {{"AuthMethod", "None"}, {"TargetPortalGroupTag", "1"}}) ==
          Step::send);
  CHECK(target.stage() == 1);
  CHECK(target.transit());
  CHECK(target.request.exp_stat_sn() == 8);
  CHECK(target.keys["HeaderDigest"] == "None");
  CHECK(target.keys["InitialR2T"] == "No");
  CHECK(target.keys["DefaultTime2Retain"] == "0");
  REQUIRE(target.operational(true, usual) == Step::done);
  const IscsiParameters& agreed = target.login->parameters();
  CHECK_FALSE(agreed.initial_r2t);
  CHECK(agreed.immediate_data);
  CHECK(agreed.max_send_segment == 8192);
  CHECK(agreed.max_burst == 262144);
  CHECK(agreed.first_burst == 65536);
  CHECK(agreed.max_r2t == 1);
  CHECK(target.login->serials().max_cmd_sn == 64);
}

TEST_CASE("what a target does not answer has the protocol's defaults") {
  Login target;
  REQUIRE(target.security(true, {}) == Step::send);
  REQUIRE(target.operational(true, {}) == Step::done);
  const IscsiParameters& agreed = target.login->parameters();
  CHECK(agreed.initial_r2t);
  CHECK(agreed.max_send_segment == 8192);
  CHECK(agreed.max_burst == 262144);
  CHECK(agreed.first_burst == 65536);
}

TEST_CASE("a target that asks for CHAP of someone without a password is named so") {
  Login target;
  CHECK(target.security(false, {{"AuthMethod", "CHAP"}}) == Step::failed);
  CHECK(target.login->error().code == Errc::permission);
  CHECK(target.why().find("the target wants CHAP") != std::string::npos);
}

TEST_CASE("CHAP answers the challenge and never does without it") {
  Login target("iscsi://alice%open-sesame-1@h/iqn.2026-01.x:y/1");
  CHECK(target.keys["AuthMethod"] == "CHAP");
  CHECK_FALSE(target.transit());
  REQUIRE(target.security(false, {{"AuthMethod", "CHAP"}}) == Step::send);
  CHECK(target.keys["CHAP_A"] == "8,6,5");
  REQUIRE(target.security(false, {{"CHAP_A", "5"}, {"CHAP_I", "17"}, {"CHAP_C", "0x0102"}}) ==
          Step::send);
  CHECK(target.keys["CHAP_N"] == "alice");
  const auto expected = iscsi::chap_response(iscsi::ChapAlgorithm::md5, 17, "open-sesame-1",
                                             std::string_view("\x01\x02", 2));
  CHECK(target.keys["CHAP_R"] == iscsi::encode_hex(*expected));
  CHECK(target.transit());
  REQUIRE(target.security(true, {}) == Step::send);
  CHECK(target.stage() == 1);
  CHECK(target.operational(true, usual) == Step::done);
}

TEST_CASE("a target that lets us in without asking for CHAP's proof is refused") {
  Login target("iscsi://alice%open-sesame-1@h/iqn.2026-01.x:y/1");
  SUBCASE("by choosing no authentication") {
    CHECK(target.security(false, {{"AuthMethod", "None"}}) == Step::failed);
    CHECK(target.why().find("takes no CHAP") != std::string::npos);
  }
  SUBCASE("by going on at once") {
    CHECK(target.security(true, {{"AuthMethod", "CHAP"}}) == Step::failed);
  }
  SUBCASE("by an algorithm that was not offered") {
    REQUIRE(target.security(false, {{"AuthMethod", "CHAP"}}) == Step::send);
    CHECK(target.security(false, {{"CHAP_A", "7"}, {"CHAP_I", "1"}, {"CHAP_C", "0x01"}}) ==
          Step::failed);
    CHECK(target.why().find("the target wants algorithm 7") != std::string::npos);
  }
}

TEST_CASE("malformed challenges are refused") {
  for (const auto& [id, challenge] : std::initializer_list<std::pair<std::string, std::string>>{
           {"256", "0x01"},
           {"x", "0x01"},
           {"1", "0x"},
           {"1", "01"},
           {"1", ""},
           {"1", "0x" + std::string(4098, 'a')}}) {
    const std::string& captured = challenge;  // clang 14 cannot capture a binding
    CAPTURE(captured);
    Login target("iscsi://alice%open-sesame-1@h/iqn.2026-01.x:y/1");
    REQUIRE(target.security(false, {{"AuthMethod", "CHAP"}}) == Step::send);
    CHECK(target.security(false, {{"CHAP_A", "5"}, {"CHAP_I", id}, {"CHAP_C", challenge}}) ==
          Step::failed);
  }
}

TEST_CASE("mutual CHAP believes only the right proof") {
  const std::string uri =
      "iscsi://alice%open-sesame-1@h/iqn.2026-01.x:y/1?target_user=disk&target_password_file=/x";
  Login target(uri);
  REQUIRE(target.security(false, {{"AuthMethod", "CHAP"}}) == Step::send);
  REQUIRE(target.security(false, {{"CHAP_A", "6"}, {"CHAP_I", "1"}, {"CHAP_C", "0xff"}}) ==
          Step::send);
  const auto id = iscsi::parse_number(target.keys["CHAP_I"]);
  const auto challenge = iscsi::decode_binary(target.keys["CHAP_C"], 64);
  REQUIRE(id);
  REQUIRE(challenge);
  CHECK(challenge->size() == 16);
  const auto proof = [&](std::string_view secret) {
    return iscsi::encode_hex(*iscsi::chap_response(
        iscsi::ChapAlgorithm::sha1, static_cast<std::uint8_t>(*id), secret, *challenge));
  };
  SUBCASE("the right one") {
    CHECK(target.security(true, {{"CHAP_N", "disk"}, {"CHAP_R", proof("the target's own")}}) ==
          Step::send);
    CHECK(target.operational(true, usual) == Step::done);
  }
  SUBCASE("a wrong secret") {
    CHECK(target.security(true, {{"CHAP_N", "disk"}, {"CHAP_R", proof("guess")}}) == Step::failed);
    CHECK(target.login->error().code == Errc::permission);
  }
  SUBCASE("a wrong name") {
    CHECK(target.security(true, {{"CHAP_N", "other"}, {"CHAP_R", proof("the target's own")}}) ==
          Step::failed);
  }
  SUBCASE("none at all") {
    CHECK(target.security(true, {}) == Step::failed);
  }
}

TEST_CASE("digests are what was asked for, or the login fails") {
  Login target("iscsi://h/iqn.2026-01.x:y/1?header_digest=crc32c&data_digest=crc32c");
  REQUIRE(target.security(true, {}) == Step::send);
  CHECK(target.keys["HeaderDigest"] == "CRC32C");
  CHECK(target.keys["DataDigest"] == "CRC32C");
  SUBCASE("granted") {
    CHECK(target.operational(true, with(with(usual, "HeaderDigest", "CRC32C"), "DataDigest",
                                        "CRC32C")) == Step::done);
    CHECK(target.login->parameters().header_digest);
    CHECK(target.login->parameters().data_digest);
  }
  SUBCASE("refused") {
    CHECK(target.operational(true, with(usual, "HeaderDigest", "CRC32C")) == Step::failed);
    CHECK(target.why() == "the target answers DataDigest='None' where CRC32C was asked for");
  }
  SUBCASE("not answered") {
    CHECK(target.operational(true, {}) == Step::failed);
    CHECK(target.why() == "the target does not answer the digests asked for");
  }
}

TEST_CASE("lengths that make no sense are refused") {
  for (const auto& [key, value] : std::initializer_list<std::pair<std::string, std::string>>{
           {"MaxRecvDataSegmentLength", "0"},
           {"MaxRecvDataSegmentLength", "16777216"},
           {"MaxRecvDataSegmentLength", "-1"},
           {"MaxBurstLength", "1"},
           {"FirstBurstLength", ""},
           {"MaxOutstandingR2T", "0"}}) {
    const std::string captured = key + "=" + value;  // clang 14 cannot capture a binding
    CAPTURE(captured);
    Login target;
    REQUIRE(target.security(true, {}) == Step::send);
    CHECK(target.operational(true, with(usual, key, value)) == Step::failed);
  }
}

TEST_CASE("what a target offers beyond the protocol is not understood") {
  Login target;
  REQUIRE(target.security(true, {}) == Step::send);
  REQUIRE(target.operational(false, with(usual, "X-com.example.magic", "42")) == Step::send);
  CHECK(target.keys["X-com.example.magic"] == "NotUnderstood");
  CHECK(target.transit());
  CHECK(target.operational(true, {}) == Step::done);
}

TEST_CASE("an answer in several parts is fetched") {
  Login target;
  Bhs part = target.header(false, 0, 0);
  part.set8(1, iscsi::flag::more);
  REQUIRE(target.answer(part, {{"AuthMethod", "None"}}) == Step::send);
  CHECK(target.keys.empty());
  CHECK_FALSE(target.transit());
  REQUIRE(target.security(false, {{"TargetPortalGroupTag", "1"}}) == Step::send);
  CHECK(target.transit());
  REQUIRE(target.security(true, {}) == Step::send);
  CHECK(target.stage() == 1);
}

TEST_CASE("refusals of a login say what to do") {
  Login target;
  Bhs refusal = target.header(false, 0, 0);
  SUBCASE("a wrong password") {
    refusal.set16(36, 0x0201);
    CHECK(target.answer(refusal, {}) == Step::failed);
    CHECK(target.login->error().code == Errc::permission);
    CHECK(target.why() ==
          "login refused with status 0201: authentication failed: check user and "
          "password");
  }
  SUBCASE("no such target") {
    refusal.set16(36, 0x0203);
    CHECK(target.answer(refusal, {}) == Step::failed);
    CHECK(target.login->error().code == Errc::not_found);
  }
  SUBCASE("moved") {
    refusal.set16(36, 0x0101);
    CHECK(target.answer(refusal, {{"TargetAddress", "192.0.2.1:3261,1"}}) == Step::moved);
    CHECK(target.login->moved_to() == "192.0.2.1:3261,1");
  }
  SUBCASE("moved to nowhere") {
    refusal.set16(36, 0x0101);
    CHECK(target.answer(refusal, {}) == Step::failed);
  }
}

TEST_CASE("a login that does not follow the protocol ends") {
  Login target;
  SUBCASE("another PDU") {
    Bhs other = target.header(true, 0, 1);
    other.set8(0, 0x25);
    CHECK(target.answer(other, {}) == Step::failed);
  }
  SUBCASE("another task") {
    Bhs other = target.header(true, 0, 1);
    other.set32(16, 1);
    CHECK(target.answer(other, {}) == Step::failed);
  }
  SUBCASE("a stage that was not asked for") {
    CHECK(target.answer(target.header(true, 0, 3), {}) == Step::failed);
    CHECK(target.why().find("was not asked for") != std::string::npos);
  }
  SUBCASE("another stage") {
    CHECK(target.operational(true, {}) == Step::failed);
  }
  SUBCASE("bytes that are no text") {
    CHECK(target.login->take(target.header(true, 0, 1), "no equals sign") == Step::failed);
  }
  SUBCASE("without an end") {
    Step step = Step::send;
    for (int i = 0; i < 100 && step == Step::send; ++i)
      step = target.security(false, {});
    CHECK(step == Step::failed);
    CHECK(target.why() == "the login does not come to an end");
  }
  SUBCASE("with endless text") {
    Bhs part = target.header(false, 0, 0);
    part.set8(1, iscsi::flag::more);
    Step step = Step::send;
    for (int i = 0; i < 100 && step == Step::send; ++i)
      step = target.answer(part, {{"X-a", std::string(8000, 'x')}});
    CHECK(step == Step::failed);
  }
}
