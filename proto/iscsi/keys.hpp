#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "proto/iscsi/pdu.hpp"
#include "proto/iscsi/text.hpp"

/// Operational keys (RFC 7143 section 13): offers in, answers and a result out. Pure.
namespace blockloom::iscsi {

/// Of a digest: what this side wants.
enum class DigestPolicy : std::uint8_t {
  none,     ///< never
  allowed,  ///< as the initiator prefers
  prefer,   ///< whenever the initiator can
  require,  ///< an initiator without it is refused
};

inline constexpr std::uint32_t min_segment = 512;
inline constexpr std::uint32_t max_segment = (1U << 24) - 1;

/// What this side offers.
struct Offers {
  DigestPolicy header_digest = DigestPolicy::allowed;
  DigestPolicy data_digest = DigestPolicy::allowed;
  std::uint32_t max_recv_data_segment_length = 262144;
  std::uint32_t max_burst_length = 1048576;
  std::uint32_t first_burst_length = 262144;
  std::uint16_t max_outstanding_r2t = 8;
  bool initial_r2t = false;
  bool immediate_data = true;
  bool operator==(const Offers&) const = default;
};

/// What both agreed on; before, section 13's defaults.
struct Parameters {
  bool header_digest = false, data_digest = false;
  std::uint32_t send_segment = 8192;     ///< MaxRecvDataSegmentLength of the initiator
  std::uint32_t receive_segment = 8192;  ///< the one declared here
  std::uint32_t max_burst_length = 262144;
  std::uint32_t first_burst_length = 65536;
  std::uint16_t default_time2wait = 2, default_time2retain = 20;
  std::uint16_t max_outstanding_r2t = 1;
  bool initial_r2t = true, immediate_data = true;
  std::string initiator_alias;
  bool operator==(const Parameters&) const = default;

  /// Bytes that may come without R2T, immediate ones included.
  std::uint32_t unsolicited() const noexcept {
    return first_burst_length < max_burst_length ? first_burst_length : max_burst_length;
  }
};

/// Answers the keys of the operational stage, one after the other.
class KeyNegotiation {
 public:
  KeyNegotiation(const Offers& offers, bool discovery) : offers_(offers), discovery_(discovery) {}

  /// True for a key of section 13 that is negotiated or declared in the operational stage.
  static bool knows(std::string_view key) noexcept;

  /// Appends the answer. LoginStatus::initiator_error: the login ends (a key twice, or a digest
  /// refused that is required).
  LoginStatus take(const KeyValue& offer, TextWriter& answer);

  /// Declares MaxRecvDataSegmentLength, once.
  void declare(TextWriter& answer);

  const Parameters& parameters() const noexcept { return result_; }

 private:
  void number(const KeyValue& offer, std::uint32_t min, std::uint32_t max, std::uint32_t ours,
              std::uint32_t& result, TextWriter& answer, bool take_larger = false);
  void boolean(const KeyValue& offer, bool ours, bool either, bool& result, TextWriter& answer);
  LoginStatus digest(const KeyValue& offer, DigestPolicy policy, bool& result, TextWriter& answer);
  bool segment_length(std::string_view value);

  Offers offers_;
  bool discovery_;
  bool declared_ = false;
  std::set<std::string, std::less<>> seen_;
  Parameters result_;
};

/// MaxRecvDataSegmentLength as it may be declared again in full feature phase; false: malformed.
bool take_segment_length(std::string_view value, Parameters& parameters);

}  // namespace blockloom::iscsi
