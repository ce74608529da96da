#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/socket.h>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/leg/iscsi_session.hpp"
#include "server/leg/iscsi_uri.hpp"
#include "server/leg/scsi_disk.hpp"

namespace blockloom {

/// Learns what disk a session leads to, one command after the other.
class DiskProbe {
 public:
  explicit DiskProbe(IscsiSession& session) : session_(session) {}

  enum class Step { working, done, failed };
  void begin();
  /// Takes its command back when the session gives it.
  bool owns(const IscsiTask& task) const noexcept { return &task == &task_; }
  Step take(const IscsiTask& task);

  const disk::Traits& traits() const noexcept { return traits_; }
  const std::string& product() const noexcept { return product_; }
  const Error& error() const noexcept { return error_; }

 private:
  enum class Stage {
    ready,
    inquiry,
    pages,
    identity,
    limits,
    provisioning,
    capacity,
    small_capacity,
    mode
  };
  static constexpr unsigned max_tries = 12;

  void ask(Stage stage);
  Step answered(std::span<const std::uint8_t> data, bool good);
  Step after_pages(Stage from);
  Step fail(Errc code, std::string message);

  IscsiSession& session_;
  IscsiTask task_;
  std::array<std::byte, 512> data_;
  Stage stage_ = Stage::ready;
  unsigned tries_ = 0;
  bool has_identity_ = false, has_limits_ = false, has_provisioning_ = false;
  disk::Traits traits_;
  std::string product_;
  Error error_;
};

/// Brings a session up: the addresses of the portal in turn, redirections, login, and the question
/// what disk is there. One attempt. Not for several threads; only begin() may block, as long as
/// the system's resolver takes for a host name.
class IscsiConnector {
 public:
  /// The URI, with its passwords, outlives the connector and its sessions.
  IscsiConnector(const IscsiUri& uri, std::string initiator, Isid isid);
  ~IscsiConnector();

  enum class Step { working, up, failed };
  void begin(TimePoint deadline);
  /// After poll() on fd() with events(), or after the deadline.
  Step step(short revents);
  Step state() const noexcept { return step_; }

  int fd() const noexcept { return session_ ? session_->fd() : -1; }
  short events() const noexcept { return session_ ? session_->events() : short{0}; }
  TimePoint deadline() const noexcept { return deadline_; }

  /// Step::up: the session, what is behind it, and its name.
  std::unique_ptr<IscsiSession> take_session() noexcept { return std::move(session_); }
  const disk::Traits& traits() const noexcept { return traits_; }
  const std::string& product() const noexcept { return product_; }
  /// Step::failed: why.
  const Error& error() const noexcept { return error_; }

 private:
  struct Address {
    sockaddr_storage address{};
    socklen_t length = 0;
  };

  bool resolve(const std::string& host, std::uint16_t port);
  bool redirect(const std::string& to);
  void next_address();
  void end_session() noexcept;
  Step fail(Error error);

  const IscsiUri& uri_;
  const std::string initiator_;
  const Isid isid_;
  Step step_ = Step::failed;
  TimePoint deadline_{};
  std::vector<Address> addresses_;
  std::size_t next_ = 0;
  unsigned redirections_ = 0;
  std::unique_ptr<IscsiSession> session_;
  std::unique_ptr<DiskProbe> probe_;
  disk::Traits traits_;
  std::string product_;
  Error error_;
};

/// The name that this machine logs in with, unless a URI says another.
std::string default_initiator_name();

/// The same for the same initiator, target and LUN, whichever process asks: a login of the next
/// process then ends the session that the last one left (RFC 7143 6.3.5).
Isid stable_isid(const IscsiUri& uri, const std::string& initiator);
/// One that disturbs no other session.
Isid random_isid();

}  // namespace blockloom
