#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "server/iscsi/node.hpp"

namespace blockloom::iscsi {

/// A thread that carries connections: their sockets, their timers, and inline devices' I/O.
class IoThread {
 public:
  /// The node outlives it. Starts the thread ("bl-iscsi-N").
  IoThread(Node& node, unsigned number);
  /// After stop().
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  /// Serves a connected socket, which it takes over, and which the node has counted in. Any
  /// thread.
  void serve(int fd, Peer peer);

  /// Connections that it has. Any thread.
  std::size_t connections() const noexcept;

  /// Closes all connections. Any thread.
  void begin_stop();
  /// Joins the thread, once every task of its connections has ended. The units must not hold any
  /// back any more (Registry::shut_down()).
  void join();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace blockloom::iscsi
