#pragma once

#include <functional>
#include <memory>

#include "server/base/error.hpp"
#include "server/dump/address.hpp"
#include "server/dump/fd.hpp"

namespace asio {
class io_context;
}

namespace blockloom::dump {

/// A TCP socket that listens. On the network's thread.
class TcpListener {
 public:
  /// Binds; errors name the place. `where` gets the port that was bound.
  static Result<UniqueFd> bind(BindPoint& where);

  /// The connected socket is the callee's.
  using Accepted = std::function<void(int fd, const Address& peer)>;
  static std::unique_ptr<TcpListener> make(asio::io_context& io, UniqueFd listening,
                                           Accepted accepted);
  virtual ~TcpListener() = default;
};

}  // namespace blockloom::dump
