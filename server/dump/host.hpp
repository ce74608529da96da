#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/base/clock.hpp"
#include "server/dump/address.hpp"
#include "server/dump/reception.hpp"
#include "server/dump/record.hpp"
#include "server/dump/workers.hpp"

namespace blockloom::dump {

/// What the sessions of every protocol have in common, and ask their owner for. Sessions live on
/// the network's thread; what waits for disks they post to a strand.
class Host {
 public:
  virtual ~Host() = default;

  virtual Store& store() noexcept = 0;
  virtual Workers& workers() noexcept = 0;
  virtual const Reception::Copies& copies() const noexcept = 0;

  /// From any thread: runs on the network's thread soon.
  virtual void on_network(std::function<void()> task) = 0;

  /// May this sender be heard at all?
  virtual bool allowed(const Address& address) const noexcept = 0;
  /// One more session? Counts it; a session that ends calls session_ended(). False: too many, or
  /// this address begins too often.
  virtual bool session_begins(const Address& address, TimePoint now) = 0;
  virtual void session_ended() noexcept = 0;
  /// The name under which this address's dumps are kept.
  virtual std::string host_name(const Address& address) const = 0;

  // On a worker: a dump began, is over, found the store full. They tell events, run hooks, look
  // for texts, digest, retain.
  virtual void dump_began(const Record& record) = 0;
  virtual void dump_ended(const Record& record) = 0;
  virtual void no_space(const Record& record) = 0;
  /// On a worker: what netconsole brought from this address lately goes beside the dump.
  virtual void join_netconsole(Reception& reception, const Address& address) = 0;
};

}  // namespace blockloom::dump
