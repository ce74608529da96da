#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/device/registry.hpp"
#include "server/dump/aftermath.hpp"
#include "server/dump/netdump.hpp"
#include "server/dump/options.hpp"
#include "server/dump/record.hpp"
#include "server/dump/store.hpp"

namespace blockloom::dump {

/// Something that happened to a dump: `dump_started`, `dump_complete`, `dump_holes`,
/// `dump_incomplete`, `dump_no_space`, `dump_removed`.
using Notify = std::function<void(std::string_view kind, const Record& record)>;

/// What is bound, once open.
struct Endpoints {
  std::vector<BindPoint> netdump, stream, netconsole;
};

struct ServiceInfo {
  Endpoints endpoints;
  NetdumpCounters netdump;
  std::size_t sessions = 0, sessions_max = 0;
  std::size_t dumps = 0;
  std::uint64_t bytes = 0;
  Space space;
  std::string store;
  std::string trouble;  ///< why the store is not open; empty: it is
};

/// The crash-dump endpoint: listeners, sessions, the store. One thread ("bl-dump") has the
/// sockets; what waits for disks runs on a few others ("bl-dump-io-N"), and what comes after a
/// dump on two ("bl-dump-after-N"). open(), start() and stop() are the owner's; the rest any
/// thread.
class Service {
 public:
  /// Locks and reads the store, and binds the sockets. Starts no thread: the process may still
  /// fork. `device`: the back end when the store is a device of ours; else null. A device is read
  /// after start(), and tried again as long as that fails.
  static Result<std::unique_ptr<Service>> open(Options options, Notify notify,
                                               std::unique_ptr<BackEnd> device = nullptr);
  ~Service();  ///< stops
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  Result<void> start();
  /// Ends the sessions (their dumps can go on later), lets the workers finish. Idempotent.
  void stop();

  Store& store() noexcept;
  ServiceInfo info() const;
  /// Errc::busy while the store is not open: why.
  Result<void> ready() const;
  /// Makes the device an empty store, whatever is on it; only while it is not open.
  Result<void> format();

  /// Removes a dump and tells of it.
  Result<void> remove(const DumpId& id);
  /// Reads a dump again and compares. Long.
  Result<Verdict> verify(const DumpId& id);
  /// Takes the dump that a client wrote to a device of ours from sector 0 on into the store, as
  /// import_dump() says. Long.
  Result<Record> import(DeviceHandle device, const std::string& host);
  /// A small made-up dump through the whole path, by this machine's own netdump or stream port.
  /// Gives its record once it is over.
  Result<Record> test(Duration timeout);

 private:
  class Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace blockloom::dump
