#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/iscsi/chap.hpp"
#include "proto/iscsi/pdu.hpp"
#include "proto/iscsi/text.hpp"
#include "server/base/error.hpp"
#include "server/leg/iscsi_uri.hpp"

namespace blockloom {

/// What a login agreed on (RFC 7143 section 13). Where nothing is said: the protocol's defaults.
struct IscsiParameters {
  bool header_digest = false;
  bool data_digest = false;
  bool initial_r2t = true;
  bool immediate_data = true;
  std::uint32_t max_send_segment = 8192;  ///< the target's MaxRecvDataSegmentLength
  std::uint32_t max_burst = 262144;
  std::uint32_t first_burst = 65536;
  std::uint32_t max_r2t = 1;  ///< outstanding for a command

  /// Ours: the longest data segment that the target may send.
  static constexpr std::uint32_t max_receive_segment = 256 * 1024;
};

using Isid = std::array<std::uint8_t, 6>;

/// The initiator's side of a login (RFC 7143 section 6.3), as steps: bytes in, bytes out. The
/// answers are hostile bytes.
class IscsiLogin {
 public:
  /// The URI, with its passwords, outlives the login.
  IscsiLogin(const IscsiUri& uri, std::string initiator, Isid isid);

  enum class Step {
    send,   ///< there is a request() to send
    done,   ///< logged in: parameters() hold
    moved,  ///< the target is at moved_to(), which was not asked yet
    failed  ///< error() says why
  };

  /// The request to send: its header, but for nothing, and its data.
  iscsi::Bhs request(std::string& data);
  /// Takes the answer to it.
  Step take(const iscsi::Bhs& answer, std::string_view data);

  const IscsiParameters& parameters() const noexcept { return parameters_; }
  const Error& error() const noexcept { return error_; }
  const std::string& moved_to() const noexcept { return moved_to_; }
  /// The status of a refused login, as RFC 7143 11.13.5 numbers it; 0: another failure.
  std::uint16_t refusal() const noexcept { return refusal_; }
  /// Of the last answer, for the session's counters.
  iscsi::Serials serials() const noexcept { return serials_; }

  static constexpr std::uint32_t first_cmd_sn = 1;

 private:
  enum class Stage : std::uint8_t { security = 0, operational = 1, full_feature = 3 };
  enum class Chap : std::uint8_t { none, offered, asked, answered, proved };

  Step fail(Errc code, std::string message);
  Step refused(std::uint16_t status);
  Step take_security();
  Step take_chap_challenge();
  Step take_chap_proof();
  Step take_operational();
  bool take_number(std::string_view key, std::string_view value, std::uint32_t least,
                   std::uint32_t& into, bool lower_only);
  bool take_key(const iscsi::KeyValue& pair);
  bool take_digest(const iscsi::KeyValue& pair, bool wanted, bool& into);
  Step advance();
  void offer_names();
  void offer_parameters();
  std::string_view value_of(std::string_view key) const;

  const IscsiUri& uri_;
  const std::string initiator_;
  const Isid isid_;

  Stage stage_ = Stage::security;
  bool transit_ = false;   // the next request asks for the next stage
  bool fetching_ = false;  // the answer has more parts: the next request is empty
  Chap chap_ = Chap::none;
  std::string chap_challenge_;  // ours, for mutual CHAP
  std::uint8_t chap_id_ = 0;
  iscsi::ChapAlgorithm chap_algorithm_{};
  iscsi::TextWriter out_;
  iscsi::TextAssembler in_;
  unsigned rounds_ = 0;
  std::uint32_t exp_stat_sn_ = 0;
  iscsi::Serials serials_;
  std::vector<iscsi::KeyValue> pairs_;  // of in_

  IscsiParameters parameters_;
  Error error_;
  std::string moved_to_;
  std::uint16_t refusal_ = 0;
};

}  // namespace blockloom
