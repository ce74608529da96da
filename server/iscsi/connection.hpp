#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "proto/iscsi/login.hpp"
#include "server/base/clock.hpp"
#include "server/iscsi/node.hpp"
#include "server/iscsi/receiver.hpp"
#include "server/iscsi/send_queue.hpp"
#include "server/iscsi/session.hpp"
#include "server/iscsi/wire.hpp"

namespace blockloom::iscsi {

/// One connection from accept to close: login, then a session. Knows no sockets; lives on its
/// wire's thread, where every member is called, unless it says otherwise.
class Connection final : public std::enable_shared_from_this<Connection>,
                         private PduHandler,
                         private SessionHost,
                         private LoginPolicy {
 public:
  /// Node and wire outlive it. The node has counted it in.
  Connection(Node& node, Wire& wire, Peer peer);
  ~Connection();

  void start();

  // The wire's.
  std::size_t space(std::span<iovec, 2> out) { return receiver_.space(out); }
  void received(std::size_t bytes);
  /// False while the initiator does not take its answers: it is not listened to either.
  bool wants_read() const noexcept { return may_read() && !receiver_.paused(); }
  /// After it did not want to read: handles what was left.
  void go_on();
  void idle() noexcept { receiver_.release_stage(); }
  std::size_t gather(std::span<iovec, SendQueue::max_iovecs> out) { return sends_.gather(out); }
  void sent(std::size_t bytes);
  void tick(TimePoint now);
  /// The socket failed, or the initiator closed it.
  void lost(std::string_view why);

  /// Ends the session; tells the initiator first, if it can be told.
  void kick(std::string_view why);
  void claim_again();

  Mailbox& mailbox() noexcept override { return wire_.mailbox(); }  ///< any thread
  const LoginIdentity& identity() const noexcept { return login_.identity(); }
  const Peer& peer() const noexcept { return peer_; }  ///< any thread
  /// Any thread, while the node has the session.
  SessionInfo info() const;

 private:
  enum class State : std::uint8_t { login, claiming, full_feature, ending, closed };

  // PduHandler
  std::span<std::byte> header(const Bhs& header, std::span<const std::uint8_t> ahs) override;
  void end(bool digest_good) override;
  void broken(RejectReason reason, const Bhs& header) override;
  // SessionHost
  void send_soon() noexcept override { wire_.send_soon(); }
  void finish(std::string_view why) noexcept override;
  void session_over() noexcept override;
  void send_targets(std::string_view which, TextWriter& answer) override;
  void target_was_reset() noexcept override;
  // LoginPolicy
  LoginVerdict judge(const LoginIdentity& identity) override;
  std::string random(std::size_t count) override;

  struct LoginPdu;
  bool may_read() const noexcept;
  void login_step();
  void send_login(Login::Response response);
  void try_claim();
  void enter(const Node::Claim& claim);
  void close(std::string_view why);
  void over() noexcept;
  void arm(TimePoint now);

  Node& node_;
  Wire& wire_;
  const Peer peer_;
  const std::shared_ptr<const IscsiOptions> options_;
  const TimePoint began_ = Clock::now();

  State state_ = State::login;
  Receiver receiver_;
  SendQueue sends_;
  Login login_;
  Bhs login_header_;
  std::string login_data_;
  std::optional<Login::Response> last_login_;  ///< held back until the session is granted
  bool counted_ = true;                        ///< among the unauthenticated
  std::uint16_t tsih_ = 0;
  std::unique_ptr<Session> session_;
  std::atomic<const SessionCounts*> counts_{nullptr};

  TimePoint last_received_ = began_, last_sent_ = began_, pinged_{};
  bool over_ = false;
};

}  // namespace blockloom::iscsi
