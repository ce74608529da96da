#pragma once

#include "server/base/clock.hpp"
#include "server/iscsi/mailbox.hpp"

namespace blockloom::iscsi {

/// What a connection's protocol asks of the socket and the thread that carry it. All members but
/// mailbox() are called on that thread.
class Wire {
 public:
  virtual ~Wire() = default;

  virtual Mailbox& mailbox() noexcept = 0;
  /// There is something to send: Connection::gather() is called soon, together with what else
  /// becomes ready in this turn.
  virtual void send_soon() noexcept = 0;
  /// The connection wants to read again.
  virtual void read_soon() noexcept = 0;
  /// Connection::tick() is called at this time, or before.
  virtual void tick_at(TimePoint when) noexcept = 0;
  /// Closes the socket; nothing is received or sent from now on.
  virtual void close() noexcept = 0;
  /// Everything has ended: the connection may be destroyed, once this call stack is over.
  virtual void over() noexcept = 0;
};

}  // namespace blockloom::iscsi
