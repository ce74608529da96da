#include "proto/iscsi/login.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

using namespace blockloom::iscsi;
using namespace std::string_literals;

namespace {

const std::string normal =
    "InitiatorName=iqn.1993-08.org.debian:01:a\0SessionType=Normal\0TargetName=iqn.2026-01.x:t\0"s;

struct Policy final : LoginPolicy {
  LoginVerdict verdict;
  std::optional<LoginIdentity> asked;
  unsigned times = 0;

  LoginVerdict judge(const LoginIdentity& identity) override {
    asked = identity;
    ++times;
    return verdict;
  }
  std::string random(std::size_t count) override { return std::string(count, '\x11'); }

  void set_chap() {
    ChapSettings chap;
    chap.users = {{"joe", "secret-of-12-b"}};
    chap.mutual = {"target", "the-targets-own"};
    verdict.chap = std::make_shared<const ChapSettings>(chap);
  }
};

/// An initiator that speaks to a Login.
struct LoginTalk {
  Policy policy;
  Login login{policy, 128};
  Bhs header;
  Login::Response last;

  LoginTalk() {
    header.set8(0, 0x43);
    header.set64(8, 0x400001370000'0000);  // ISID, TSIH 0
    header.set32(16, 77);
    header.set16(20, 1);
    header.set32(24, 1000);
  }
  static constexpr std::uint8_t bits(unsigned csg, int nsg = -1) {
    return static_cast<std::uint8_t>(csg << 2 |
                                     (nsg >= 0 ? 0x80U | static_cast<unsigned>(nsg) : 0));
  }

  /// The response's status.
  unsigned send(std::uint8_t flags, const std::string& text) {
    header.set8(1, flags);
    last = login.step(header, text);
    CHECK(last.header.data_length() == last.data.size());
    CHECK(last.header.opcode() == Opcode::login_response);
    CHECK(last.header.itt() == header.itt());
    return last.header.u16(36);
  }
  std::string value(std::string_view key) const {
    const auto pairs = parse_text(last.data);
    REQUIRE(pairs.has_value());
    for (const KeyValue& pair : *pairs)
      if (pair.key == key) return std::string(pair.value);
    return "-";
  }
  std::uint8_t stage() const { return last.header.u8(1); }

  std::string proof(const std::string& secret) const {
    const auto challenge = decode_binary(value("CHAP_C"), 1024).value();
    const auto algorithm = static_cast<ChapAlgorithm>(parse_number(value("CHAP_A")).value());
    const auto id = static_cast<std::uint8_t>(parse_number(value("CHAP_I")).value());
    return encode_hex(chap_response(algorithm, id, secret, challenge).value());
  }
};

std::string pair(std::string_view key, std::string_view value) {
  return std::string(key) + "=" + std::string(value) + '\0';
}

}  // namespace

TEST_CASE("one request is enough where nothing has to be proved") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(1, 3), normal + pair("HeaderDigest", "None")) == 0);
  CHECK(t.login.state() == Login::State::done);
  CHECK(t.stage() == LoginTalk::bits(1, 3));
  CHECK(t.value("TargetPortalGroupTag") == "1");
  CHECK(t.value("HeaderDigest") == "None");
  CHECK(t.value("MaxRecvDataSegmentLength") == "262144");
  CHECK(t.policy.asked->initiator == "iqn.1993-08.org.debian:01:a");
  CHECK(t.policy.asked->target == "iqn.2026-01.x:t");
  CHECK(t.policy.asked->isid == 0x400001370000);
  CHECK(t.last.header.u32(24) == 0);
  CHECK(t.last.header.u32(28) == 1000);
  CHECK(t.last.header.u32(32) == 1127);
  CHECK(t.login.stat_sn() == 1);
  CHECK(t.login.cmd_sn() == 1000);
  Login::accept(t.last, 5);
  CHECK(t.last.header.u64(8) == 0x400001370000'0005);
}

TEST_CASE("stage by stage: security, operational, full feature") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(0, 1), normal + pair("AuthMethod", "CHAP,None")) == 0);
  CHECK(t.value("AuthMethod") == "None");
  CHECK(t.stage() == LoginTalk::bits(0, 1));
  CHECK(t.login.state() == Login::State::going_on);
  CHECK(t.send(LoginTalk::bits(1), pair("ErrorRecoveryLevel", "0")) == 0);
  CHECK(t.stage() == LoginTalk::bits(1));
  CHECK(t.value("TargetPortalGroupTag") == "-");  // once
  CHECK(t.send(LoginTalk::bits(1, 3), "") == 0);
  CHECK(t.login.state() == Login::State::done);
  CHECK(t.policy.times == 1);
}

TEST_CASE("a discovery session names no target") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(1, 3), pair("InitiatorName", "iqn.1993-08.org.debian:01:a") +
                                          pair("SessionType", "Discovery")) == 0);
  CHECK(t.login.identity().discovery);
  CHECK(t.value("TargetPortalGroupTag") == "-");
}

TEST_CASE("text that comes in pieces is put together") {
  LoginTalk t;
  CHECK(t.send(0x40 | LoginTalk::bits(1), normal.substr(0, 30)) == 0);
  CHECK(t.stage() == LoginTalk::bits(1));
  CHECK(t.last.data.empty());
  CHECK(t.policy.times == 0);
  CHECK(t.send(LoginTalk::bits(1, 3), normal.substr(30)) == 0);
  CHECK(t.login.state() == Login::State::done);
}

TEST_CASE("CHAP: one way") {
  LoginTalk t;
  t.policy.set_chap();
  CHECK(t.send(LoginTalk::bits(0, 1), normal + pair("AuthMethod", "CHAP,None")) == 0);
  CHECK(t.value("AuthMethod") == "CHAP");
  CHECK(t.stage() == LoginTalk::bits(0));  // not before it is proved
  CHECK(t.send(LoginTalk::bits(0, 1), pair("CHAP_A", "7,5")) == 0);
  CHECK(t.value("CHAP_A") == "7");
  CHECK(t.stage() == LoginTalk::bits(0));
  CHECK(t.send(LoginTalk::bits(0, 1),
               pair("CHAP_N", "joe") + pair("CHAP_R", t.proof("secret-of-12-b"))) == 0);
  CHECK(t.stage() == LoginTalk::bits(0, 1));
  CHECK(t.login.chap_user() == "joe");
  CHECK(t.send(LoginTalk::bits(1, 3), "") == 0);
  CHECK(t.login.state() == Login::State::done);
}

TEST_CASE("CHAP: method and algorithm in one request, as some initiators send them") {
  LoginTalk t;
  t.policy.set_chap();
  CHECK(t.send(LoginTalk::bits(0), normal + pair("AuthMethod", "CHAP") + pair("CHAP_A", "5")) == 0);
  CHECK(t.value("CHAP_A") == "5");
  CHECK(t.send(LoginTalk::bits(0, 3),
               pair("CHAP_N", "joe") + pair("CHAP_R", t.proof("secret-of-12-b"))) == 0);
  CHECK(t.login.state() == Login::State::done);
}

TEST_CASE("CHAP: mutual") {
  LoginTalk t;
  t.policy.set_chap();
  t.send(LoginTalk::bits(0), normal + pair("AuthMethod", "CHAP"));
  t.send(LoginTalk::bits(0), pair("CHAP_A", "5"));
  CHECK(t.send(LoginTalk::bits(0, 1), pair("CHAP_N", "joe") +
                                          pair("CHAP_R", t.proof("secret-of-12-b")) +
                                          pair("CHAP_I", "9") + pair("CHAP_C", "0x00010203")) == 0);
  CHECK(t.value("CHAP_N") == "target");
  CHECK(t.value("CHAP_R") ==
        encode_hex(chap_response(ChapAlgorithm::md5, 9, "the-targets-own", "\0\1\2\3"s).value()));
}

TEST_CASE("CHAP: whoever cannot prove itself is refused with 0201") {
  using Step = std::string (*)(const LoginTalk&);
  const Step steps[] = {
      [](const LoginTalk& t) {
        return pair("CHAP_N", "joe") + pair("CHAP_R", t.proof("wrong-secret"));
      },
      [](const LoginTalk& t) {
        return pair("CHAP_N", "bob") + pair("CHAP_R", t.proof("secret-of-12-b"));
      },
      [](const LoginTalk&) { return pair("CHAP_N", "joe"); },
      [](const LoginTalk&) { return std::string(); },
      [](const LoginTalk& t) {  // our challenge back
        return pair("CHAP_N", "joe") + pair("CHAP_R", t.proof("secret-of-12-b")) +
               pair("CHAP_I", "1") + pair("CHAP_C", t.value("CHAP_C"));
      },
      [](const LoginTalk& t) {  // half a challenge
        return pair("CHAP_N", "joe") + pair("CHAP_R", t.proof("secret-of-12-b")) +
               pair("CHAP_I", "1");
      },
  };
  for (const Step step : steps) {
    LoginTalk t;
    t.policy.set_chap();
    t.send(LoginTalk::bits(0), normal + pair("AuthMethod", "CHAP"));
    t.send(LoginTalk::bits(0), pair("CHAP_A", "5"));
    CHECK(t.send(LoginTalk::bits(0, 1), step(t)) == 0x0201);
    CHECK(t.login.state() == Login::State::failed);
    CHECK(t.last.data.empty());  // and learns nothing
    CHECK_FALSE(t.login.why().empty());
  }
}

TEST_CASE("CHAP cannot be walked around") {
  LoginTalk t;
  t.policy.set_chap();
  CHECK(t.send(LoginTalk::bits(1, 3), normal) == 0x0201);  // straight to the operational stage
  LoginTalk quiet;
  quiet.policy.set_chap();
  CHECK(quiet.send(LoginTalk::bits(0, 1), normal) == 0x0201);  // without AuthMethod
  LoginTalk none;
  none.policy.set_chap();
  CHECK(none.send(LoginTalk::bits(0, 1), normal + pair("AuthMethod", "None")) == 0x0201);
  LoginTalk old;
  old.policy.set_chap();
  old.send(LoginTalk::bits(0), normal + pair("AuthMethod", "CHAP"));
  CHECK(old.send(LoginTalk::bits(0), pair("CHAP_A", "56")) == 0x0201);
  LoginTalk early;
  early.policy.set_chap();
  CHECK(early.send(LoginTalk::bits(0), normal + pair("CHAP_N", "joe") + pair("CHAP_R", "0x00")) ==
        0x0201);
}

TEST_CASE("a login that lacks what it needs") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(1, 3), "") == 0x0207);
  LoginTalk no_target;
  CHECK(no_target.send(LoginTalk::bits(1, 3),
                       pair("InitiatorName", "iqn.1993-08.org.debian:01:a")) == 0x0207);
  LoginTalk odd_type;
  CHECK(odd_type.send(LoginTalk::bits(1, 3), pair("InitiatorName", "iqn.1993-08.org.debian:01:a") +
                                                 pair("SessionType", "Other")) == 0x0209);
  LoginTalk bad_name;
  CHECK(bad_name.send(LoginTalk::bits(1, 3), pair("InitiatorName", "host one")) == 0x0200);
}

TEST_CASE("what the target says is passed on") {
  LoginTalk t;
  t.policy.verdict.status = LoginStatus::not_allowed;
  CHECK(t.send(LoginTalk::bits(1, 3), normal) == 0x0202);
  LoginTalk moved;
  moved.policy.verdict.status = LoginStatus::moved_temporarily;
  moved.policy.verdict.redirect = "192.0.2.1:3260";
  CHECK(moved.send(LoginTalk::bits(1, 3), normal) == 0x0101);
  CHECK(moved.value("TargetAddress") == "192.0.2.1:3260");
}

TEST_CASE("headers that make no sense end the login") {
  LoginTalk version;
  version.header.set8(3, 1);
  CHECK(version.send(LoginTalk::bits(1, 3), normal) == 0x0205);
  LoginTalk stage;
  CHECK(stage.send(2 << 2, normal) == 0x0200);
  LoginTalk back;
  CHECK(back.send(LoginTalk::bits(1, 1), normal) == 0x0200);
  LoginTalk to_two;
  CHECK(to_two.send(LoginTalk::bits(1, 2), normal) == 0x0200);
  LoginTalk both;
  CHECK(both.send(0x40 | LoginTalk::bits(1, 3), normal) == 0x0200);
  LoginTalk other_stage;
  CHECK(other_stage.send(LoginTalk::bits(0), normal + pair("AuthMethod", "None")) == 0);
  CHECK(other_stage.send(LoginTalk::bits(1, 3), "") == 0x0200);
  LoginTalk other_tag;
  CHECK(other_tag.send(LoginTalk::bits(1), normal) == 0);
  other_tag.header.set32(16, 78);
  CHECK(other_tag.send(LoginTalk::bits(1, 3), "") == 0x020b);
}

TEST_CASE("keys in the wrong stage end the login") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(0), normal + pair("MaxBurstLength", "65536")) == 0x0200);
  LoginTalk u;
  CHECK(u.send(LoginTalk::bits(1), normal + pair("AuthMethod", "None")) == 0x0200);
}

TEST_CASE("a login cannot go on for ever, nor grow for ever") {
  LoginTalk t;
  CHECK(t.send(LoginTalk::bits(1), normal) == 0);
  unsigned requests = 1;
  while (t.send(LoginTalk::bits(1), "") == 0)
    ++requests;
  CHECK(requests == 64);
  LoginTalk u;
  unsigned pieces = 0;
  while (u.send(0x40 | LoginTalk::bits(1), std::string(8192, 'x')) == 0)
    ++pieces;
  CHECK(pieces == 4);
}

TEST_CASE("unknown keys are not understood, and their answers stay short") {
  LoginTalk t;
  std::string text = normal;
  for (unsigned i = 0; i < max_pairs - 3; ++i)
    text += pair("X-" + std::string(55, 'k') + std::to_string(i), "v");
  CHECK(t.send(LoginTalk::bits(1, 3), text) == 0);
  CHECK(t.last.data.find("=NotUnderstood") != std::string::npos);
  CHECK(t.last.data.size() < 8192);
}

TEST_CASE("iSCSI names") {
  for (const char* good : {"iqn.1993-08.org.debian:01:a", "eui.02004567A425678D",
                           "naa.52004567BA64678D", "naa.62004567BA64678D0123456789ABCDEF"})
    CHECK_MESSAGE(is_iscsi_name(good), good);
  for (const char* bad : {"", "iqn.", "host", "iqn.a b", "iqn.a\x01", "eui.0200", "naa.zz",
                          "eui.02004567A425678G", "iqn.a,b"})
    CHECK_FALSE_MESSAGE(is_iscsi_name(bad), bad);
  CHECK_FALSE(is_iscsi_name("iqn." + std::string(220, 'x')));
}
