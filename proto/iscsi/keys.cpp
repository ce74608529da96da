#include "proto/iscsi/keys.hpp"

#include <algorithm>
#include <iterator>

namespace blockloom::iscsi {
namespace {

// Keys by name. What a discovery session, which moves no SCSI data, has no use for is marked.
enum class Key : std::uint8_t {
  header_digest,
  data_digest,
  max_connections,
  initial_r2t,
  immediate_data,
  segment_length,
  max_burst,
  first_burst,
  time2wait,
  time2retain,
  outstanding_r2t,
  pdu_in_order,
  sequence_in_order,
  recovery_level,
  initiator_alias,
  task_reporting,
  protocol_level,
  marker,
  marker_interval,
};

struct KeyRow {
  std::string_view name;
  Key key;
  bool irrelevant_to_discovery = false;
};

constexpr KeyRow key_rows[] = {
    {"HeaderDigest", Key::header_digest},
    {"DataDigest", Key::data_digest},
    {"MaxConnections", Key::max_connections, true},
    {"InitialR2T", Key::initial_r2t, true},
    {"ImmediateData", Key::immediate_data, true},
    {"MaxRecvDataSegmentLength", Key::segment_length},
    {"MaxBurstLength", Key::max_burst, true},
    {"FirstBurstLength", Key::first_burst, true},
    {"DefaultTime2Wait", Key::time2wait},
    {"DefaultTime2Retain", Key::time2retain},
    {"MaxOutstandingR2T", Key::outstanding_r2t, true},
    {"DataPDUInOrder", Key::pdu_in_order, true},
    {"DataSequenceInOrder", Key::sequence_in_order, true},
    {"ErrorRecoveryLevel", Key::recovery_level},
    {"InitiatorAlias", Key::initiator_alias},
    {"TaskReporting", Key::task_reporting, true},
    {"iSCSIProtocolLevel", Key::protocol_level, true},
    {"IFMarker", Key::marker},
    {"OFMarker", Key::marker},
    {"IFMarkInt", Key::marker_interval},
    {"OFMarkInt", Key::marker_interval},
};

const KeyRow* find_key(std::string_view name) noexcept {
  const auto row = std::find_if(std::begin(key_rows), std::end(key_rows),
                                [&](const KeyRow& r) { return r.name == name; });
  return row == std::end(key_rows) ? nullptr : row;
}

constexpr std::string_view reject = "Reject";

void task_reporting(const KeyValue& offer, TextWriter& answer) {
  const auto items = split_list(offer.value);
  const bool plain = std::find(items.begin(), items.end(), "RFC3720") != items.end();
  answer.add(offer.key, plain ? "RFC3720" : reject);
}

}  // namespace

bool KeyNegotiation::knows(std::string_view key) noexcept {
  return find_key(key) != nullptr;
}

void KeyNegotiation::number(const KeyValue& offer, std::uint32_t min, std::uint32_t max,
                            std::uint32_t ours, std::uint32_t& result, TextWriter& answer,
                            bool take_larger) {
  const auto theirs = parse_number(offer.value);
  if (!theirs || *theirs < min || *theirs > max) return answer.add(offer.key, reject);
  const auto value = static_cast<std::uint32_t>(*theirs);
  result = take_larger ? std::max(value, ours) : std::min(value, ours);
  answer.add(offer.key, std::uint64_t{result});
}

void KeyNegotiation::boolean(const KeyValue& offer, bool ours, bool either, bool& result,
                             TextWriter& answer) {
  if (offer.value != "Yes" && offer.value != "No") return answer.add(offer.key, reject);
  const bool theirs = offer.value == "Yes";
  result = either ? ours || theirs : ours && theirs;
  answer.add_flag(offer.key, result);
}

LoginStatus KeyNegotiation::digest(const KeyValue& offer, DigestPolicy policy, bool& result,
                                   TextWriter& answer) {
  bool none = false, crc = false, crc_first = false;
  for (const std::string_view item : split_list(offer.value)) {
    if (item == "CRC32C" && !crc) {
      crc = true;
      crc_first = !none;
    }
    none = none || item == "None";
  }
  if (policy == DigestPolicy::none) crc = false;
  if (policy == DigestPolicy::require) none = false;
  if (!none && !crc) {
    answer.add(offer.key, reject);
    return policy == DigestPolicy::require ? LoginStatus::initiator_error : LoginStatus::success;
  }
  result = crc && (!none || crc_first || policy == DigestPolicy::prefer);
  answer.add(offer.key, result ? "CRC32C" : "None");
  return LoginStatus::success;
}

bool take_segment_length(std::string_view value, Parameters& parameters) {
  const auto length = parse_number(value);
  if (!length || *length < min_segment || *length > max_segment) return false;
  parameters.send_segment = static_cast<std::uint32_t>(*length);
  return true;
}

void KeyNegotiation::declare(TextWriter& answer) {
  if (declared_) return;
  declared_ = true;
  result_.receive_segment = offers_.max_recv_data_segment_length;
  answer.add("MaxRecvDataSegmentLength", std::uint64_t{result_.receive_segment});
}

LoginStatus KeyNegotiation::take(const KeyValue& offer, TextWriter& answer) {
  const KeyRow* const row = find_key(offer.key);
  if (row == nullptr) {
    answer.add(offer.key, "NotUnderstood");
    return LoginStatus::success;
  }
  if (!seen_.emplace(offer.key).second) return LoginStatus::initiator_error;
  if (discovery_ && row->irrelevant_to_discovery) {
    answer.add(offer.key, "Irrelevant");
    return LoginStatus::success;
  }
  bool fixed_order = true;
  std::uint32_t value = 0;
  switch (row->key) {
    case Key::header_digest:
      return digest(offer, offers_.header_digest, result_.header_digest, answer);
    case Key::data_digest:
      return digest(offer, offers_.data_digest, result_.data_digest, answer);
    case Key::max_connections:
      number(offer, 1, 65535, 1, value, answer);
      break;
    case Key::initial_r2t:
      boolean(offer, offers_.initial_r2t, true, result_.initial_r2t, answer);
      break;
    case Key::immediate_data:
      boolean(offer, offers_.immediate_data, false, result_.immediate_data, answer);
      break;
    case Key::segment_length:  // declared, not answered
      if (!take_segment_length(offer.value, result_)) answer.add(offer.key, reject);
      break;
    case Key::max_burst:
      number(offer, min_segment, max_segment, offers_.max_burst_length, result_.max_burst_length,
             answer);
      break;
    case Key::first_burst:
      number(offer, min_segment, max_segment, offers_.first_burst_length,
             result_.first_burst_length, answer);
      break;
    case Key::time2wait:
      value = result_.default_time2wait;
      number(offer, 0, 3600, 2, value, answer, true);
      result_.default_time2wait = static_cast<std::uint16_t>(value);
      break;
    case Key::time2retain:
      // Nothing is retained at error recovery level 0.
      value = result_.default_time2retain;
      number(offer, 0, 3600, 0, value, answer);
      result_.default_time2retain = static_cast<std::uint16_t>(value);
      break;
    case Key::outstanding_r2t:
      value = result_.max_outstanding_r2t;
      number(offer, 1, 65535, offers_.max_outstanding_r2t, value, answer);
      result_.max_outstanding_r2t = static_cast<std::uint16_t>(value);
      break;
    case Key::pdu_in_order:
    case Key::sequence_in_order:
      boolean(offer, true, true, fixed_order, answer);
      break;
    case Key::recovery_level:
      number(offer, 0, 2, 0, value, answer);
      break;
    case Key::initiator_alias:  // declared
      result_.initiator_alias = offer.value.substr(0, 255);
      break;
    case Key::task_reporting:
      task_reporting(offer, answer);
      break;
    case Key::protocol_level:
      number(offer, 0, 31, 1, value, answer);
      break;
    case Key::marker:  // 13.25: obsolete, and never NotUnderstood
      answer.add(offer.key, "No");
      break;
    case Key::marker_interval:
      answer.add(offer.key, reject);
      break;
  }
  return LoginStatus::success;
}

}  // namespace blockloom::iscsi
