#include "server/leg/iscsi_login.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <openssl/rand.h>

#include "proto/iscsi/chap.hpp"

namespace blockloom {
namespace {

using iscsi::Bhs;

constexpr unsigned max_rounds = 24;
constexpr std::uint32_t largest_segment = (1U << 24) - 1;
// What we ask for. A burst of a mebibyte takes the largest request that a leg sends in one piece.
constexpr std::uint32_t wanted_burst = 1 << 20;
constexpr std::uint32_t wanted_first_burst = 256 << 10;
constexpr std::uint32_t wanted_r2t = 8;

std::string algorithms_text(std::string_view names) {
  std::string text;
  for (const std::string_view name : iscsi::split_list(names))
    if (const auto algorithm = iscsi::chap_algorithm(name))
      text += fmt::format("{}{}", text.empty() ? "" : ",", static_cast<unsigned>(*algorithm));
  return text;
}

std::string_view status_text(std::uint16_t status) {
  using iscsi::LoginStatus;
  switch (static_cast<LoginStatus>(status)) {
    case LoginStatus::authentication_failed:
      return "authentication failed: check user and password";
    case LoginStatus::not_allowed:
      return "this initiator may not use the target: check the target's access list";
    case LoginStatus::not_found:
      return "there is no such target";
    case LoginStatus::removed:
      return "the target was removed";
    case LoginStatus::unsupported_version:
      return "it does not speak this version of iSCSI";
    case LoginStatus::too_many_connections:
      return "it has too many connections";
    case LoginStatus::missing_parameter:
      return "it misses a parameter";
    case LoginStatus::target_error:
      return "it has an error of its own";
    case LoginStatus::unavailable:
      return "it is not available now";
    case LoginStatus::out_of_resources:
      return "it is out of resources";
    default:
      return "it refuses";
  }
}

bool is_offered(std::string_view key) {
  constexpr std::string_view ours[] = {
      "HeaderDigest",       "DataDigest",          "MaxRecvDataSegmentLength",
      "MaxBurstLength",     "FirstBurstLength",    "InitialR2T",
      "ImmediateData",      "MaxOutstandingR2T",   "MaxConnections",
      "ErrorRecoveryLevel", "DefaultTime2Wait",    "DefaultTime2Retain",
      "DataPDUInOrder",     "DataSequenceInOrder", "AuthMethod"};
  return std::find(std::begin(ours), std::end(ours), key) != std::end(ours);
}

/// What a target only declares: no answer is expected.
bool is_declared(std::string_view key) {
  return key == "TargetAlias" || key == "TargetPortalGroupTag" || key == "TargetAddress" ||
         key == "TargetName" || key.starts_with("CHAP_");
}

}  // namespace

IscsiLogin::IscsiLogin(const IscsiUri& uri, std::string initiator, Isid isid)
    : uri_(uri), initiator_(std::move(initiator)), isid_(isid) {
  offer_names();
}

void IscsiLogin::offer_names() {
  out_.add("InitiatorName", initiator_);
  out_.add("SessionType", "Normal");
  out_.add("TargetName", uri_.target);
  // Whoever has a password never does without it.
  out_.add("AuthMethod", uri_.user.empty() ? "None" : "CHAP");
  chap_ = uri_.user.empty() ? Chap::none : Chap::offered;
  transit_ = uri_.user.empty();
}

void IscsiLogin::offer_parameters() {
  out_.add("HeaderDigest", uri_.header_digest ? "CRC32C" : "None");
  out_.add("DataDigest", uri_.data_digest ? "CRC32C" : "None");
  out_.add("MaxRecvDataSegmentLength", IscsiParameters::max_receive_segment);
  out_.add("MaxBurstLength", wanted_burst);
  out_.add("FirstBurstLength", wanted_first_burst);
  out_.add_flag("InitialR2T", false);
  out_.add_flag("ImmediateData", true);
  out_.add("MaxOutstandingR2T", wanted_r2t);
  out_.add("MaxConnections", 1);
  out_.add("ErrorRecoveryLevel", std::uint64_t{0});
  // The target keeps nothing of a session whose connection is gone.
  out_.add("DefaultTime2Wait", std::uint64_t{0});
  out_.add("DefaultTime2Retain", std::uint64_t{0});
  out_.add_flag("DataPDUInOrder", true);
  out_.add_flag("DataSequenceInOrder", true);
}

Bhs IscsiLogin::request(std::string& data) {
  data = out_.take();
  Bhs bhs;
  const auto next = stage_ == Stage::security ? Stage::operational : Stage::full_feature;
  const bool transit = transit_ && !fetching_;
  bhs.set8(0, static_cast<std::uint8_t>(iscsi::Opcode::login) | 0x40);
  bhs.set8(1, static_cast<std::uint8_t>((transit ? iscsi::flag::final : 0) |
                                        static_cast<unsigned>(stage_) << 2 |
                                        (transit ? static_cast<unsigned>(next) : 0)));
  bhs.set_data_length(static_cast<std::uint32_t>(data.size()));
  for (std::size_t i = 0; i < isid_.size(); ++i)
    bhs.set8(8 + i, isid_[i]);
  bhs.set32(24, first_cmd_sn);
  bhs.set32(28, exp_stat_sn_);
  return bhs;
}

IscsiLogin::Step IscsiLogin::fail(Errc code, std::string message) {
  error_ = {code, std::move(message)};
  return Step::failed;
}

IscsiLogin::Step IscsiLogin::refused(std::uint16_t status) {
  refusal_ = status;
  if (status >> 8 == 1) {
    moved_to_ = value_of("TargetAddress");
    if (!moved_to_.empty()) return Step::moved;
  }
  const bool person = status == 0x0201 || status == 0x0202;
  return fail(person             ? Errc::permission
              : status == 0x0203 ? Errc::not_found
                                 : Errc::io,
              fmt::format("login refused with status {:04X}: {}", status, status_text(status)));
}

std::string_view IscsiLogin::value_of(std::string_view key) const {
  const auto found =
      std::find_if(pairs_.begin(), pairs_.end(), [&](const auto& p) { return p.key == key; });
  return found != pairs_.end() ? found->value : std::string_view();
}

IscsiLogin::Step IscsiLogin::take(const Bhs& answer, std::string_view data) {
  if (++rounds_ > max_rounds) return fail(Errc::io, "the login does not come to an end");
  if (answer.opcode() != iscsi::Opcode::login_response || answer.itt() != 0)
    return fail(Errc::io, "no login response, but something else, answers the login");
  const bool more = (answer.u8(1) & iscsi::flag::more) != 0;
  const bool transit = answer.final();
  const std::uint16_t status = answer.u16(36);
  if (!in_.add(data)) return fail(Errc::limit, "the login's answers are too long");
  auto pairs = iscsi::parse_text(in_.text());
  if (!more && !pairs) return fail(Errc::io, "the login's answer is malformed");
  pairs_ = pairs ? std::move(*pairs) : std::vector<iscsi::KeyValue>();
  if (status >> 8 != 0) return refused(status);
  serials_ = {answer.u32(24), answer.u32(28), answer.u32(32)};
  exp_stat_sn_ = serials_.stat_sn + 1;
  const auto current = static_cast<Stage>(answer.u8(1) >> 2 & 3);
  const auto next = static_cast<Stage>(answer.u8(1) & 3);
  const bool asked = transit_ && !fetching_;
  if (answer.u8(3) != 0 || current != stage_ || (transit && (more || !asked)))
    return fail(Errc::io, "the login's answer does not follow the protocol");
  fetching_ = more;
  if (more) {
    out_.take();
    return Step::send;
  }
  const auto expected = stage_ == Stage::security ? Stage::operational : Stage::full_feature;
  if (transit && next != expected)
    return fail(Errc::io, "the login's answer goes to a stage that was not asked for");
  Step step = stage_ == Stage::security ? take_security() : take_operational();
  in_.clear();
  pairs_.clear();
  if (step != Step::send) return step;
  return transit ? advance() : Step::send;
}

/// The target goes on to the next stage.
IscsiLogin::Step IscsiLogin::advance() {
  if (stage_ == Stage::operational) {
    // Without an answer the default is none.
    if (parameters_.header_digest != uri_.header_digest ||
        parameters_.data_digest != uri_.data_digest)
      return fail(Errc::not_supported, "the target does not answer the digests asked for");
    return Step::done;
  }
  if (chap_ != Chap::none && chap_ != Chap::proved)
    return fail(Errc::permission, "the target lets us in without the proof that was asked for");
  stage_ = Stage::operational;
  transit_ = true;
  out_.take();
  offer_parameters();
  return Step::send;
}

IscsiLogin::Step IscsiLogin::take_security() {
  const std::string_view method = value_of("AuthMethod");
  switch (chap_) {
    case Chap::none:
      if (!method.empty() && method != "None")
        return fail(Errc::permission,
                    "the target wants CHAP: expected USER%PASSWORD@ or USER@ and password_file=");
      transit_ = true;
      return Step::send;
    case Chap::offered:
      if (method != "CHAP")
        return fail(Errc::permission, "the target takes no CHAP: expected a URI without a user");
      out_.add("CHAP_A", algorithms_text(uri_.chap));
      chap_ = Chap::asked;
      return Step::send;
    case Chap::asked:
      return take_chap_challenge();
    case Chap::answered:
      return take_chap_proof();
    case Chap::proved:
      break;
  }
  return Step::send;
}

IscsiLogin::Step IscsiLogin::take_chap_challenge() {
  const auto algorithm = iscsi::parse_number(value_of("CHAP_A"));
  const auto id = iscsi::parse_number(value_of("CHAP_I"));
  const auto challenge = iscsi::decode_binary(value_of("CHAP_C"), iscsi::max_chap_bytes);
  if (!algorithm || !id || *id > 255 || !challenge || challenge->empty())
    return fail(
        Errc::permission,
        fmt::format("CHAP: the target takes none of {}, or its challenge is malformed", uri_.chap));
  const auto offered = iscsi::split_list(uri_.chap);
  const auto chosen = std::find_if(offered.begin(), offered.end(), [&](std::string_view name) {
    const auto known = iscsi::chap_algorithm(name);
    return known && static_cast<std::uint64_t>(*known) == *algorithm;
  });
  if (chosen == offered.end())
    return fail(Errc::permission,
                fmt::format("CHAP: the target wants algorithm {}: expected one of {}", *algorithm,
                            uri_.chap));
  chap_algorithm_ = *iscsi::chap_algorithm(*chosen);
  const auto response = iscsi::chap_response(chap_algorithm_, static_cast<std::uint8_t>(*id),
                                             uri_.password, *challenge);
  if (!response)
    return fail(Errc::not_supported, fmt::format("CHAP: {} is not available here", *chosen));
  out_.add("CHAP_N", uri_.user);
  out_.add("CHAP_R", iscsi::encode_hex(*response));
  if (!uri_.target_user.empty()) {
    unsigned char random[33];
    if (RAND_bytes(random, sizeof random) != 1)
      return fail(Errc::io, "CHAP: no random numbers are available");
    chap_id_ = random[32];
    chap_challenge_.assign(reinterpret_cast<char*>(random), 16);
    out_.add("CHAP_I", chap_id_);
    out_.add("CHAP_C", iscsi::encode_hex(chap_challenge_));
  }
  chap_ = Chap::answered;
  transit_ = true;
  return Step::send;
}

IscsiLogin::Step IscsiLogin::take_chap_proof() {
  if (!uri_.target_user.empty()) {
    const auto response = iscsi::decode_binary(value_of("CHAP_R"), iscsi::max_chap_bytes);
    const auto expected =
        iscsi::chap_response(chap_algorithm_, chap_id_, uri_.target_password, chap_challenge_);
    const bool right = response && expected && iscsi::equal_secretly(*response, *expected) &&
                       value_of("CHAP_N") == uri_.target_user;
    if (!right)
      return fail(Errc::permission,
                  "the target did not prove who it is (mutual CHAP): check target_user and "
                  "target_password_file");
  }
  chap_ = Chap::proved;
  return Step::send;
}

bool IscsiLogin::take_number(std::string_view key, std::string_view value, std::uint32_t least,
                             std::uint32_t& into, bool lower_only) {
  const auto number = iscsi::parse_number(value);
  if (!number || *number < least || *number > largest_segment) {
    fail(Errc::io, fmt::format("the target says {}={}", key, quoted(value)));
    return false;
  }
  const auto found = static_cast<std::uint32_t>(*number);
  into = lower_only ? std::min(into, found) : found;
  return true;
}

bool IscsiLogin::take_digest(const iscsi::KeyValue& pair, bool wanted, bool& into) {
  into = pair.value == "CRC32C";
  if (into == wanted && (into || pair.value == "None")) return true;
  fail(Errc::not_supported, fmt::format("the target answers {}={} where {} was asked for", pair.key,
                                        quoted(pair.value), wanted ? "CRC32C" : "None"));
  return false;
}

bool IscsiLogin::take_key(const iscsi::KeyValue& pair) {
  const auto& [key, value] = pair;
  if (key == "HeaderDigest")
    return take_digest(pair, uri_.header_digest, parameters_.header_digest);
  if (key == "DataDigest") return take_digest(pair, uri_.data_digest, parameters_.data_digest);
  if (key == "MaxRecvDataSegmentLength")
    return take_number(key, value, 512, parameters_.max_send_segment, false);
  // Irrelevant, Reject, NotUnderstood: the defaults stand.
  if (value == "Irrelevant" || value == "Reject" || value == "NotUnderstood") return true;
  if (key == "MaxBurstLength") {
    parameters_.max_burst = wanted_burst;
    return take_number(key, value, 512, parameters_.max_burst, true);
  }
  if (key == "FirstBurstLength") {
    parameters_.first_burst = wanted_first_burst;
    return take_number(key, value, 512, parameters_.first_burst, true);
  }
  if (key == "MaxOutstandingR2T") {
    parameters_.max_r2t = wanted_r2t;
    return take_number(key, value, 1, parameters_.max_r2t, true);
  }
  if (key == "InitialR2T") parameters_.initial_r2t = value != "No";
  if (key == "ImmediateData") parameters_.immediate_data = value == "Yes";
  if (key == "ErrorRecoveryLevel" && value != "0") {
    fail(Errc::io, fmt::format("the target says {}={}", key, quoted(value)));
    return false;
  }
  // A target may offer what we did not: nothing of that is needed.
  if (!is_offered(key) && !is_declared(key)) out_.add(key, "NotUnderstood");
  return true;
}

IscsiLogin::Step IscsiLogin::take_operational() {
  for (const iscsi::KeyValue& pair : pairs_)
    if (!take_key(pair)) return Step::failed;
  parameters_.first_burst = std::min(parameters_.first_burst, parameters_.max_burst);
  transit_ = true;
  return Step::send;
}

}  // namespace blockloom
