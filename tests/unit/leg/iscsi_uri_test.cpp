#include "server/leg/iscsi_uri.hpp"

#include <fstream>

#include <sys/stat.h>

#include "server/leg/secrets.hpp"
#include "server/leg/uri.hpp"
#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

namespace {

std::string iscsi_refusal(std::string_view uri) {
  const auto parsed = parse_iscsi_uri(uri);
  REQUIRE_FALSE(parsed);
  return parsed.error().message;
}

}  // namespace

TEST_CASE("an iSCSI URI names portal, target and LUN") {
  const auto uri = parse_iscsi_uri("iscsi://storage.example:3261/iqn.2026-01.com.example:disk/7");
  REQUIRE(uri);
  CHECK(uri.value().host == "storage.example");
  CHECK(uri.value().port == 3261);
  CHECK(uri.value().target == "iqn.2026-01.com.example:disk");
  CHECK(uri.value().lun == 7);
  CHECK(uri.value().user.empty());
  CHECK(uri.value().timeout == std::chrono::seconds(30));
  CHECK(portal_text(uri.value()) == "storage.example:3261");
}

TEST_CASE("an iSCSI URI takes IPv6 addresses, and 3260 as the port that is not named") {
  const auto uri = parse_iscsi_uri("iscsi://[fe80::1]/eui.02004567A425678D/0");
  REQUIRE(uri);
  CHECK(uri.value().host == "fe80::1");
  CHECK(uri.value().port == 3260);
  CHECK(portal_text(uri.value()) == "[fe80::1]:3260");
}

TEST_CASE("the first % of an iSCSI URI ends the user, and the password's own are %25") {
  const auto uri = parse_iscsi_uri("iscsi://alice%a%25b%40c@h/iqn.2026-01.x:y/1");
  REQUIRE(uri);
  CHECK(uri.value().user == "alice");
  CHECK(uri.value().password == "a%b@c");
}

TEST_CASE("an iSCSI URI's parameters are taken") {
  const auto uri = parse_iscsi_uri(
      "iscsi://u%p@h/iqn.2026-01.x:y/1?target_user=t&target_password_file=/etc/t&chap=sha256,md5"
      "&header_digest=crc32c&data_digest=crc32c&queue_depth=8&timeout=5s&login_timeout=500ms"
      "&keepalive=1s&initiator=iqn.2026-01.com.example:me");
  REQUIRE(uri);
  CHECK(uri.value().target_user == "t");
  CHECK(uri.value().target_password_file == "/etc/t");
  CHECK(uri.value().chap == "sha256,md5");
  CHECK(uri.value().header_digest);
  CHECK(uri.value().data_digest);
  CHECK(uri.value().queue_depth == 8);
  CHECK(uri.value().timeout == std::chrono::seconds(5));
  CHECK(uri.value().login_timeout == std::chrono::milliseconds(500));
  CHECK(uri.value().keepalive == std::chrono::seconds(1));
  CHECK(uri.value().initiator == "iqn.2026-01.com.example:me");
}

TEST_CASE("what is wrong with an iSCSI URI is named") {
  CHECK(iscsi_refusal("iscsi:/x") ==
        "leg 'iscsi:/x': expected iscsi://[USER[%PASSWORD]@]HOST[:PORT]/TARGET/LUN[?KEY=VALUE&…]");
  CHECK(iscsi_refusal("iscsi://h/iqn.2026-01.x:y").find("expected iscsi://") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://h:0/iqn.x/1").find("expected a port from 1 to 65535") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h:70000/iqn.x/1").find("expected a port") != std::string::npos);
  CHECK(iscsi_refusal("iscsi:///iqn.x/1").find("expected a host name") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/disk/1").find("expected an iSCSI name") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/16384").find("expected a number from 0 to 16383") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/-1").find("LUN") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://u@h/iqn.x/1").find("CHAP takes both") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?password_file=/p").find("CHAP takes both") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://u%p@h/iqn.x/1?password_file=/p").find("expected one of them") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?target_user=t").find("mutual CHAP takes both") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?target_user=t&target_password_file=/p")
            .find("mutual CHAP comes on top") != std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?data_digest=md5").find("expected none or crc32c") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?queue_depth=0").find("expected a number from 1 to 512") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?timeout=1us").find("expected at least 100ms") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?chap=rot13").find("expected a list of") !=
        std::string::npos);
  CHECK(iscsi_refusal("iscsi://h/iqn.x/1?colour=red").find("'colour': expected password_file") !=
        std::string::npos);
}

TEST_CASE("no refusal of an iSCSI URI shows its password") {
  for (const char* uri :
       {"iscsi://u%hunter2@h/iqn.x/1?colour=red", "iscsi://u%hunter2@h:0/iqn.x/1",
        "iscsi://u%hunter2@h/disk/1", "iscsi://u%hunter%2@h/iqn.x/1", "iscsi://u%hunter2@h",
        "iscsi://u%hun/ter2@h/iqn.x/1", "iscsi://u%hun@ter2@h/disk/1",
        "iscsi://u%hun?ter2@h/iqn.x/1", "iscsi://u%hun/a?ter2@h/iqn.x/1",
        "iscsi://u%hun?a/ter2@h/iqn.x/1?colour=red", "iscsi://u%?hunter2@h/disk/1"}) {
    CAPTURE(uri);
    CHECK(public_uri(uri).find("hun") == std::string::npos);
    CHECK(public_uri(uri).find("ter2") == std::string::npos);
    CHECK(iscsi_refusal(uri).find("hun") == std::string::npos);
    CHECK(iscsi_refusal(uri).find("ter2") == std::string::npos);
  }
}

TEST_CASE("a blank in an iSCSI URI is refused, and what stands around it is not shown") {
  for (const char blank : {' ', '\t', '\n'}) {
    const auto uri =
        parse_iscsi_uri(std::string("iscsi://alice%open") + blank + "sesame@h/iqn.2026-01.x:y/1");
    REQUIRE_FALSE(uri);
    CHECK(uri.error().message.find("expected %20") != std::string::npos);
    CHECK(uri.error().message.find("sesame") == std::string::npos);
    CHECK(uri.error().message.find("open") == std::string::npos);
  }
}

TEST_CASE("public_uri hides passwords and nothing else") {
  CHECK(public_uri("iscsi://u%secret@h/iqn.x/1") == "iscsi://u%***@h/iqn.x/1");
  CHECK(public_uri("fault:[read=error]:iscsi://u%s@h/iqn.x/1?timeout=5s") ==
        "fault:[read=error]:iscsi://u%***@h/iqn.x/1?timeout=5s");
  CHECK(public_uri("0 8 linear iscsi://u%s@h/iqn.x/1 0\n8 8 linear iscsi://v%t@h/iqn.x/1 0") ==
        "0 8 linear iscsi://u%***@h/iqn.x/1 0\n8 8 linear iscsi://v%***@h/iqn.x/1 0");
  CHECK(public_uri("iscsi://u@h/iqn.x/1?password_file=/p%20q") ==
        "iscsi://u@h/iqn.x/1?password_file=/p%20q");
  CHECK(public_uri("iscsi://h/iqn%3Ax/1") == "iscsi://h/iqn%3Ax/1");
  CHECK(public_uri("iscsi://h/iqn%3Ax/1?target_user=a@b") == "iscsi://h/iqn%3Ax/1?target_user=a@b");
  CHECK(public_uri(R"({"uri":"iscsi://[fe80::1%25a]/iqn.x/1","who":"a@b"})") ==
        R"({"uri":"iscsi://[fe80::1%25a]/iqn.x/1","who":"a@b"})");
  CHECK(public_uri("file:///a%20b@c") == "file:///a%20b@c");
}

TEST_CASE("passwords are read from the first line of files") {
  TempDir dir;
  { std::ofstream(dir / "p") << "open sesame\r\nsecond line\n"; }
  { std::ofstream(dir / "t") << "another one"; }
  auto uri = parse_iscsi_uri("iscsi://u@h/iqn.x/1?password_file=" + (dir / "p") +
                             "&target_user=t&target_password_file=" + (dir / "t"));
  REQUIRE(uri);
  REQUIRE(read_passwords(uri.value()));
  CHECK(uri.value().password == "open sesame");
  CHECK(uri.value().target_password == "another one");

  uri.value().target_password_file = uri.value().password_file;
  const auto same = read_passwords(uri.value());
  REQUIRE_FALSE(same);
  CHECK(same.error().message == "mutual CHAP: expected two different passwords");
}

TEST_CASE("a password file that is none is refused") {
  TempDir dir;
  { std::ofstream(dir / "empty") << "\n"; }
  mkfifo((dir / "pipe").c_str(), 0600);
  for (const char* name : {"empty", "pipe", "missing", "."}) {
    CAPTURE(name);
    auto uri = parse_iscsi_uri("iscsi://u@h/iqn.x/1?password_file=" + (dir / name));
    REQUIRE(uri);
    const auto read = read_passwords(uri.value());
    REQUIRE_FALSE(read);
    CHECK(read.error().message.find("password file") == 0);
  }
}

TEST_CASE("secrets are revealed only while asked for, and to the thread that asks") {
  CHECK_FALSE(RevealSecrets::active());
  {
    const RevealSecrets reveal;
    CHECK(RevealSecrets::active());
  }
  CHECK_FALSE(RevealSecrets::active());
}
