#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/iscsi/chap.hpp"
#include "proto/iscsi/keys.hpp"
#include "proto/iscsi/pdu.hpp"
#include "proto/iscsi/text.hpp"

namespace blockloom::iscsi {

/// Who wants to log in to what.
struct LoginIdentity {
  std::string initiator;   ///< InitiatorName
  std::string target;      ///< TargetName; empty in a discovery session
  std::uint64_t isid = 0;  ///< 48 bits
  std::uint16_t cid = 0;
  std::uint16_t tsih = 0;  ///< 0: a new session
  bool discovery = false;
};

/// What a target says to that.
struct LoginVerdict {
  LoginStatus status = LoginStatus::success;
  std::string redirect;  ///< TargetAddress, with a status of class 1
  std::string alias;     ///< TargetAlias; empty: none
  std::uint16_t portal_group = 1;
  std::shared_ptr<const ChapSettings> chap;  ///< null: no authentication
  Offers offers;
};

/// The decisions that login asks for.
class LoginPolicy {
 public:
  virtual ~LoginPolicy() = default;
  /// Asked once, when the names are known.
  virtual LoginVerdict judge(const LoginIdentity& identity) = 0;
  /// Unpredictable bytes; fewer than asked for end the login.
  virtual std::string random(std::size_t count) = 0;
};

/// The target's half of login as pure steps: a request in, a response out (RFC 7143 sections 6.3,
/// 11.12, 11.13). It ends in full feature phase or in failure.
class Login {
 public:
  enum class State : std::uint8_t { going_on, done, failed };

  struct Response {
    Bhs header;
    std::string data;
  };

  /// The policy outlives it. `window`: how many commands an initiator may queue.
  Login(LoginPolicy& policy, std::uint32_t window) : policy_(policy), window_(window) {}

  /// A login request with its data. When state() is then done, the response still lacks the
  /// session's TSIH: accept() or refuse() make it whole.
  Response step(const Bhs& request, std::string_view data);

  /// The first PDU was something else: RFC 7143 wants the connection closed, a response is
  /// allowed.
  Response refuse(LoginStatus status);
  static void accept(Response& response, std::uint16_t tsih) noexcept {
    response.header.set16(14, tsih);
  }

  State state() const noexcept { return state_; }
  const LoginIdentity& identity() const noexcept { return identity_; }
  bool identified() const noexcept { return identified_; }
  const Parameters& parameters() const noexcept { return keys_->parameters(); }
  const std::string& chap_user() const noexcept { return chap_user_; }
  /// The next StatSN, and the CmdSN that the first command will have.
  std::uint32_t stat_sn() const noexcept { return stat_sn_; }
  std::uint32_t cmd_sn() const noexcept { return cmd_sn_; }
  LoginStatus status() const noexcept { return status_; }
  /// Why it failed, a sentence for the log.
  const std::string& why() const noexcept { return why_; }

 private:
  enum class Stage : std::uint8_t { security = 0, operational = 1, full_feature = 3 };
  enum class Auth : std::uint8_t { open, method, challenged, done };

  LoginStatus check_header(const Bhs& request);
  LoginStatus identify(const std::vector<KeyValue>& pairs);
  LoginStatus take_keys(const std::vector<KeyValue>& pairs, TextWriter& answer);
  LoginStatus take_security(const std::vector<KeyValue>& pairs, TextWriter& answer);
  LoginStatus take_method(std::string_view offered, TextWriter& answer);
  LoginStatus take_algorithms(std::string_view list, TextWriter& answer);
  LoginStatus take_proof(const std::vector<KeyValue>& pairs, TextWriter& answer);
  Response respond(const Bhs& request, TextWriter& answer, bool transit, Stage next);
  Response fail(const Bhs& request, LoginStatus status);
  LoginStatus because(LoginStatus status, std::string why) {
    why_ = std::move(why);
    return status;
  }
  bool must_authenticate() const noexcept {
    return verdict_.chap && verdict_.chap->required() && auth_ != Auth::done;
  }

  static constexpr unsigned max_requests = 64;

  LoginPolicy& policy_;
  const std::uint32_t window_;
  State state_ = State::going_on;
  Stage stage_ = Stage::security;
  Auth auth_ = Auth::open;
  bool started_ = false, identified_ = false, said_group_ = false;
  unsigned requests_ = 0;
  std::uint32_t itt_ = 0, stat_sn_ = 0, cmd_sn_ = 0;
  LoginIdentity identity_;
  LoginVerdict verdict_;
  TextAssembler text_;
  std::optional<Chap> chap_;
  std::optional<KeyNegotiation> keys_;
  std::string chap_user_, why_;
  LoginStatus status_ = LoginStatus::success;
  Bhs last_;  ///< the request that refuse() answers
};

/// True for a name that RFC 7143 4.2.7 allows: iqn., eui. or naa., and at most 223 bytes.
bool is_iscsi_name(std::string_view name) noexcept;

}  // namespace blockloom::iscsi
