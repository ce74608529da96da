#include "proto/iscsi/keys.hpp"

#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace blockloom::iscsi;

namespace {

/// One negotiation, key by key.
struct KeyTalk {
  explicit KeyTalk(const Offers& offers = {}, bool discovery = false) : keys(offers, discovery) {}

  /// What is answered to "KEY=VALUE"; without a key if there is no answer.
  std::string operator()(std::string_view key, std::string_view value) {
    TextWriter answer;
    status = keys.take({key, value}, answer);
    const std::string text = answer.take();
    const std::string prefix = std::string(key) + "=";
    if (text.empty()) return "-";
    REQUIRE(text.starts_with(prefix));
    return text.substr(prefix.size(), text.size() - prefix.size() - 1);
  }
  const Parameters& agreed() const { return keys.parameters(); }

  KeyNegotiation keys;
  LoginStatus status = LoginStatus::success;
};

}  // namespace

TEST_CASE("before anything is said, section 13's defaults hold") {
  const Parameters defaults;
  CHECK_FALSE(defaults.header_digest);
  CHECK(defaults.initial_r2t);
  CHECK(defaults.immediate_data);
  CHECK(defaults.send_segment == 8192);
  CHECK(defaults.max_burst_length == 262144);
  CHECK(defaults.first_burst_length == 65536);
  CHECK(defaults.max_outstanding_r2t == 1);
  CHECK(defaults.default_time2wait == 2);
  CHECK(defaults.default_time2retain == 20);
}

TEST_CASE("each key has its rule: the smaller, the larger, both, or either") {
  struct Row {
    const char *key, *offer, *answer;
  };
  constexpr Row rows[] = {
      {"MaxConnections", "8", "1"},
      {"InitialR2T", "No", "No"},
      {"InitialR2T", "Yes", "Yes"},
      {"ImmediateData", "Yes", "Yes"},
      {"ImmediateData", "No", "No"},
      {"MaxBurstLength", "16776192", "1048576"},
      {"MaxBurstLength", "512", "512"},
      {"FirstBurstLength", "0x10000", "65536"},
      {"DefaultTime2Wait", "0", "2"},
      {"DefaultTime2Wait", "5", "5"},
      {"DefaultTime2Retain", "20", "0"},
      {"MaxOutstandingR2T", "1", "1"},
      {"MaxOutstandingR2T", "65535", "8"},
      {"DataPDUInOrder", "No", "Yes"},
      {"DataSequenceInOrder", "No", "Yes"},
      {"ErrorRecoveryLevel", "2", "0"},
      {"TaskReporting", "FastAbort,RFC3720", "RFC3720"},
      {"TaskReporting", "FastAbort", "Reject"},
      {"iSCSIProtocolLevel", "31", "1"},
      {"iSCSIProtocolLevel", "0", "0"},
      {"IFMarker", "Yes", "No"},
      {"OFMarker", "No", "No"},
      {"IFMarkInt", "2048~8192", "Reject"},
      {"X-com.example.key", "1", "NotUnderstood"},
      {"SendTargets", "All", "NotUnderstood"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.key);
    CAPTURE(row.offer);
    KeyTalk talk;
    CHECK(talk(row.key, row.offer) == row.answer);
    CHECK(talk.status == LoginStatus::success);
  }
}

TEST_CASE("values out of range or malformed are rejected, and the default stands") {
  struct Row {
    const char *key, *offer;
  };
  constexpr Row rows[] = {
      {"MaxConnections", "0"},      {"MaxConnections", "65536"},
      {"InitialR2T", "yes"},        {"ImmediateData", ""},
      {"MaxBurstLength", "511"},    {"MaxBurstLength", "16777216"},
      {"FirstBurstLength", "-1"},   {"DefaultTime2Wait", "3601"},
      {"MaxOutstandingR2T", "0"},   {"ErrorRecoveryLevel", "3"},
      {"DataPDUInOrder", "Maybe"},  {"MaxRecvDataSegmentLength", "511"},
      {"HeaderDigest", "MD5"},      {"DataDigest", ""},
      {"iSCSIProtocolLevel", "32"}, {"MaxRecvDataSegmentLength", "16777216"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.key);
    CAPTURE(row.offer);
    KeyTalk talk;
    CHECK(talk(row.key, row.offer) == "Reject");
    CHECK(talk.status == LoginStatus::success);
    CHECK(talk.agreed() == Parameters());
  }
}

TEST_CASE("digests: what the initiator prefers, unless this side has a word") {
  const auto agreed = [](DigestPolicy policy, std::string_view offer) {
    Offers offers;
    offers.header_digest = policy;
    KeyTalk talk(offers);
    std::string answer = talk("HeaderDigest", offer);
    CHECK(talk.agreed().header_digest == (answer == "CRC32C"));
    if (talk.status != LoginStatus::success) answer += "!";
    return answer;
  };
  using enum DigestPolicy;
  CHECK(agreed(allowed, "None,CRC32C") == "None");
  CHECK(agreed(allowed, "CRC32C,None") == "CRC32C");
  CHECK(agreed(allowed, "CRC32C") == "CRC32C");
  CHECK(agreed(prefer, "None,CRC32C") == "CRC32C");
  CHECK(agreed(prefer, "None") == "None");
  CHECK(agreed(none, "CRC32C,None") == "None");
  CHECK(agreed(none, "CRC32C") == "Reject");
  CHECK(agreed(require, "None,CRC32C") == "CRC32C");
  CHECK(agreed(require, "None") == "Reject!");
}

TEST_CASE("the same key twice ends the login") {
  KeyTalk talk;
  talk("InitialR2T", "Yes");
  talk("InitialR2T", "Yes");
  CHECK(talk.status == LoginStatus::initiator_error);
}

TEST_CASE("declared keys are not answered") {
  KeyTalk talk;
  CHECK(talk("MaxRecvDataSegmentLength", "131072") == "-");
  CHECK(talk.agreed().send_segment == 131072);
  CHECK(talk("InitiatorAlias", "host one") == "-");
  CHECK(talk.agreed().initiator_alias == "host one");
}

TEST_CASE("this side declares its segment length once") {
  KeyTalk talk;
  TextWriter answer;
  CHECK(talk.agreed().receive_segment == 8192);
  talk.keys.declare(answer);
  talk.keys.declare(answer);
  CHECK(answer.take() == std::string("MaxRecvDataSegmentLength=262144") + '\0');
  CHECK(talk.agreed().receive_segment == 262144);
}

TEST_CASE("a discovery session has no use for what moves SCSI data") {
  KeyTalk talk({}, true);
  CHECK(talk("MaxBurstLength", "65536") == "Irrelevant");
  CHECK(talk("InitialR2T", "Yes") == "Irrelevant");
  CHECK(talk("HeaderDigest", "None") == "None");
  CHECK(talk("ErrorRecoveryLevel", "0") == "0");
}

TEST_CASE("what may come unsolicited is bounded by the burst as well") {
  KeyTalk talk;
  talk("MaxBurstLength", "4096");
  talk("FirstBurstLength", "65536");
  CHECK(talk.agreed().unsolicited() == 4096);
}
