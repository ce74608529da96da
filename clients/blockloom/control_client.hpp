#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "clients/blockloom/command.hpp"
#include "proto/control/line_buffer.hpp"
#include "proto/control/message.hpp"
#include "proto/control/value.hpp"

namespace blockloom::cli {

/// Why something could not be done, for a person and for the exit status.
struct Failure {
  Exit exit = Exit::failed;
  std::string errc;  ///< the server's name for it; "unreachable" if there is no server
  std::string message;
};

struct Answer {
  rpc::Value value;
  std::optional<Failure> failure;
};

/// The exit status for an error's stable name.
Exit exit_for(std::string_view errc) noexcept;

/// One connection to a server's control socket; blocking, one call at a time.
class ControlClient {
 public:
  /// Null, with the failure, if nobody listens.
  static std::unique_ptr<ControlClient> connect(const std::string& path, Failure& failure);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  /// A server that has all its connections is tried again for two seconds.
  Answer call(std::string_view method, const rpc::Value& params = rpc::Value::object());

  /// Waits for a notification. False: the connection ended, as `failure` says.
  bool notification(std::string& method, rpc::Value& params, Failure& failure);

 private:
  ControlClient(int fd, std::string path);
  /// `turned_away`: the server does not take this connection, and has carried nothing out.
  Answer call_once(std::string_view method, const rpc::Value& params, bool& turned_away);
  bool connect_again(Failure& failure);
  bool read_reply(rpc::Reply& reply, Failure& failure);
  Failure lost(std::string_view why) const;

  int fd_;
  const std::string path_;
  rpc::LineBuffer lines_;
  std::uint64_t next_id_ = 1;
};

}  // namespace blockloom::cli
