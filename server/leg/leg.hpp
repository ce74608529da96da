#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/leg/account.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

class RemoteLeg;

/// A backend that holds bytes: a file, memory, another device, a server.
///
/// What every leg does with an Io whose offset and length lie inside it:
/// - read, write: all of it, or an error. flush: everything completed before is durable.
/// - trim: a hint; a leg that cannot does nothing and succeeds.
/// - zero: the range reads as zeroes afterwards; io_flag::fast may fail with not_supported.
/// - cache: a hint. extents: appends at least one; a leg that cannot tell reports data.
/// A leg with inline_only() never returns Submit::pending.
class Leg {
 public:
  explicit Leg(std::string uri) : uri_(std::move(uri)) {}
  virtual ~Leg() = default;
  Leg(const Leg&) = delete;
  Leg& operator=(const Leg&) = delete;

  /// Hands the Io over, and counts it. Any thread, many at once.
  Submit submit(Io& io) noexcept;

  /// As it was written in the table line: what `table` prints and the error messages name. A
  /// `dev:` leg follows its device when that is renamed.
  virtual std::string uri() const { return uri_; }

  virtual Bytes size() const noexcept = 0;
  virtual bool read_only() const noexcept { return false; }
  virtual bool inline_only() const noexcept { return false; }

  /// A last look before a table with this leg goes live: what was opened must still be there.
  virtual Result<void> ready() { return {}; }

  /// Ends whatever the leg holds back by its own will (delays, hangs) with this status: the
  /// engine stops, or the device is removed by force. Later requests are not held back any more.
  virtual void release_held(Errc) noexcept {}

  /// Changes a running leg: a fault leg takes its rules here. Answers a line for the caller.
  virtual Result<std::string> message(std::string_view text);

  /// What a mirror asks of a leg with a peer: links, fences, sessions (remote_leg.hpp). Null for
  /// local legs.
  virtual RemoteLeg* remote() noexcept { return nullptr; }

  /// The device behind a `dev:` leg, which stacking and `deps` ask for; empty for all others.
  virtual std::string device_name() const { return {}; }

  IoTotals totals() const noexcept { return account_.totals(); }

 protected:
  virtual Submit do_submit(Io& io) noexcept = 0;

  /// Ends an Io for which do_submit returned pending: counts it and runs its completion.
  static void finish(Io& io, Errc status) noexcept;

  /// For a leg that wraps another: the Io stays counted as the outer leg's, whose submit() it
  /// came through.
  static Submit forward(Leg& inner, Io& io) noexcept { return inner.do_submit(io); }

 private:
  const std::string uri_;
  IoAccount account_;
};

/// What `dev:NAME` asks to become a leg; the registry of devices answers.
class DeviceResolver {
 public:
  virtual ~DeviceResolver() = default;
  virtual Result<std::shared_ptr<Leg>> open_device(std::string_view name, bool read_only) = 0;
};

class NamedMemory;

/// What opening a leg may need.
struct LegContext {
  DeviceResolver* devices = nullptr;  ///< used while opening; null: `dev:` legs are refused
  NamedMemory* memories = nullptr;    ///< outlives the legs; null: named memory is refused
};

/// Opens the leg that a URI names:
///   /path, file:///path           a regular file or block device
///   mem:SIZE[?name=NAME]          memory; a named one is shared by all tables while one uses it
///   dev:NAME                      another device
///   fault:[RULE;…]:URI            any other leg with faults
/// Errors name the URI and say what was expected.
/// Opening has no effect on what the leg holds.
Result<std::shared_ptr<Leg>> open_leg(std::string_view uri, bool read_only, LegContext& context);

/// The device that a URI leads to, through any wrapper; empty if it is not a `dev:` leg.
std::string device_in_uri(std::string_view uri);

}  // namespace blockloom
