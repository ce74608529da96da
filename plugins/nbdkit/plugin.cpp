// The table of C callbacks that nbdkit calls. Nothing here decides anything: each turns nbdkit's
// words into the engine's, and keeps exceptions from reaching nbdkit, which they would kill.

#define NBDKIT_API_VERSION 2
#include <cstdio>
#include <exception>
#include <string>

#include <fmt/format.h>
#include <nbdkit-plugin.h>

#include "plugins/nbdkit/bridge.hpp"
#include "plugins/nbdkit/error_map.hpp"
#include "plugins/nbdkit/failure_log.hpp"
#include "plugins/nbdkit/server.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/target/target.hpp"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace blockloom::nbd {
namespace {

constexpr std::uint32_t minimum_block = 512, preferred_block = 4096, maximum_block = 64u << 20;

/// From .load to .unload. Not destroyed by exit(): the parent of nbdkit's fork leaves that way,
/// and must not take down what the child serves.
Server* server = nullptr;
FailureLog failure_log;

void report(const Error& error) noexcept {
  nbdkit_error("%s", error.message.c_str());
  nbdkit_set_error(to_nbd_errno(error.code, Op::read));
}

/// Runs a callback's body; whatever it throws (the standard library, out of memory) becomes
/// nbdkit's -1 or NULL.
template <class T, class Body>
T guarded(T on_failure, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception& e) {
    nbdkit_error("unexpected: %s", e.what());
  } catch (...) {
    nbdkit_error("unexpected exception");
  }
  nbdkit_set_error(EIO);
  return on_failure;
}

int to_status(const Result<void>& result) noexcept {
  if (result) return 0;
  report(result.error());
  return -1;
}

/// nbdkit's log knows errors and debugging (-v), and nothing between.
void to_nbdkit_log(LogLevel level, std::string_view message) {
  const int length = static_cast<int>(message.size());
  if (level == LogLevel::error)
    nbdkit_error("%.*s", length, message.data());
  else if (level == LogLevel::warning)
    nbdkit_error("warning: %.*s", length, message.data());
  else
    nbdkit_debug("%.*s", length, message.data());
}

Connection& connection_of(void* handle) noexcept {
  return *static_cast<Connection*>(handle);
}

// --- life ------------------------------------------------------------------------------------

void load() noexcept {
  guarded(0, [] {
    set_log_sink(to_nbdkit_log);
    server = new Server;
    return 0;
  });
}

void unload() noexcept {
  delete server;
  server = nullptr;
  set_log_sink(nullptr);
}

int config(const char* key, const char* value) noexcept {
  return guarded(-1, [=] { return to_status(server->parameters().add(key, value)); });
}

int config_complete() noexcept {
  return guarded(-1, [] { return to_status(server->check_parameters()); });
}

int get_ready() noexcept {
  return guarded(-1, [] { return to_status(server->get_ready()); });
}

int after_fork() noexcept {
  return guarded(-1, [] { return to_status(server->start()); });
}

void cleanup() noexcept {
  guarded(0, [] {
    server->stop();
    return 0;
  });
}

void dump_plugin() noexcept {
  guarded(0, [] {
    std::printf("blockloom_version=%s\n", BLOCKLOOM_VERSION);
    std::string targets;
    for (const TargetType& type : target_types())
      targets += fmt::format("{}{} v{}", targets.empty() ? "" : ", ", type.name, type.version);
    std::printf("blockloom_targets=%s\n", targets.c_str());
    std::printf("blockloom_legs=file, mem, dev, fault, nbd\n");
    std::printf(
        "blockloom_features=exports, multi-conn, fua, trim, zero, fast-zero, extents, "
        "cache, swap, control, state, epochs\n");
    return 0;
  });
}

// --- exports and negotiation -----------------------------------------------------------------

int list_exports(int, int, nbdkit_exports* exports) noexcept {
  return guarded(-1, [=] {
    for (const Server::Export& e : server->exports()) {
      const char* description = e.description.empty() ? nullptr : e.description.c_str();
      if (nbdkit_add_export(exports, e.name.c_str(), description) != 0) return -1;
    }
    return 0;
  });
}

const char* default_export(int, int) noexcept {
  return guarded<const char*>(nullptr, [] {
    // The empty name goes on to open(), which says what is missing.
    return nbdkit_strdup_intern(server->default_export().c_str());
  });
}

void* open(int read_only) noexcept {
  return guarded<void*>(nullptr, [=]() -> void* {
    const char* name = nbdkit_export_name();
    Result<Connection*> connection = server->open(name ? name : "", read_only != 0);
    if (connection) return *connection;
    report(connection.error());
    return nullptr;
  });
}

void close(void* handle) noexcept {
  server->close(&connection_of(handle));
}

const char* export_description(void* handle) noexcept {
  return guarded<const char*>(nullptr, [=]() -> const char* {
    const std::string& text = connection_of(handle).description;
    return text.empty() ? nullptr : nbdkit_strdup_intern(text.c_str());
  });
}

std::int64_t get_size(void* handle) noexcept {
  return static_cast<std::int64_t>(connection_of(handle).size.value);
}

int block_size(void*, std::uint32_t* minimum, std::uint32_t* preferred,
               std::uint32_t* maximum) noexcept {
  *minimum = minimum_block;
  *preferred = preferred_block;
  *maximum = maximum_block;
  return 0;
}

int can_write(void* handle) noexcept {
  return connection_of(handle).read_only ? 0 : 1;
}

// The rest holds whatever table is swapped in while the client stays: every leg takes every
// operation (trim is a hint, a fast zero may be declined), and a flush goes to all legs, whoever
// wrote.
int always(void*) noexcept {
  return 1;
}
int never(void*) noexcept {
  return 0;
}
int fua_native(void*) noexcept {
  return NBDKIT_FUA_NATIVE;
}
int cache_native(void*) noexcept {
  return NBDKIT_CACHE_NATIVE;
}

// --- data ------------------------------------------------------------------------------------

std::uint8_t to_io_flags(std::uint32_t flags) noexcept {
  std::uint8_t result = 0;
  if (flags & NBDKIT_FLAG_FUA) result |= io_flag::fua;
  if (flags & NBDKIT_FLAG_MAY_TRIM) result |= io_flag::may_trim;
  if (flags & NBDKIT_FLAG_FAST_ZERO) result |= io_flag::fast;
  if (flags & NBDKIT_FLAG_REQ_ONE) result |= io_flag::one_extent;
  return result;
}

[[gnu::cold]] int fail(Connection& connection, const Request& request) noexcept {
  const int error_number = to_nbd_errno(request.status, request.op);
  failure_log.note(*connection.device, request);
  nbdkit_set_error(error_number);
  return -1;
}

int carry(void* handle, Op op, void* data, std::uint32_t count, std::uint64_t offset,
          std::uint32_t flags, Extents* extents = nullptr) noexcept {
  Connection& connection = connection_of(handle);
  Request request;
  request.op = op;
  request.flags = to_io_flags(flags);
  request.offset = Bytes(offset);
  request.length = Bytes(count);
  request.data = static_cast<std::byte*>(data);
  request.extents = extents;
  const std::size_t shard = this_thread_shard();
  if (!connection.gate->enter(connection.epoch, op, shard)) [[unlikely]] {
    request.status = Errc::permission;
    return fail(connection, request);
  }
  const Errc status = run(*connection.device, request);
  connection.gate->exit(connection.epoch, op, shard);
  if (status == Errc::ok) [[likely]]
    return 0;
  return fail(connection, request);
}

int pread(void* handle, void* data, std::uint32_t count, std::uint64_t offset,
          std::uint32_t flags) noexcept {
  return carry(handle, Op::read, data, count, offset, flags);
}

int pwrite(void* handle, const void* data, std::uint32_t count, std::uint64_t offset,
           std::uint32_t flags) noexcept {
  return carry(handle, Op::write, const_cast<void*>(data), count, offset, flags);
}

int flush(void* handle, std::uint32_t flags) noexcept {
  return carry(handle, Op::flush, nullptr, 0, 0, flags);
}

int trim(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) noexcept {
  return carry(handle, Op::trim, nullptr, count, offset, flags);
}

int zero(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) noexcept {
  return carry(handle, Op::zero, nullptr, count, offset, flags);
}

int cache(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) noexcept {
  return carry(handle, Op::cache, nullptr, count, offset, flags);
}

int extents(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
            nbdkit_extents* answer) noexcept {
  return guarded(-1, [=] {
    Extents found;
    if (carry(handle, Op::extents, nullptr, count, offset, flags, &found) != 0) return -1;
    std::uint64_t position = offset;
    for (const Extent& e : found.list()) {
      const std::uint32_t type =
          (e.hole ? NBDKIT_EXTENT_HOLE : 0u) | (e.zero ? NBDKIT_EXTENT_ZERO : 0u);
      if (nbdkit_add_extent(answer, position, e.length.value, type) != 0) return -1;
      position += e.length.value;
    }
    return 0;
  });
}

nbdkit_plugin make_plugin() noexcept {
  nbdkit_plugin p{};
  p.name = "blockloom";
  p.longname = "Blockloom virtual block devices";
  p.version = BLOCKLOOM_VERSION;
  p.description =
      "Serves device-mapper style tables over files, memory and other devices, each device as\n"
      "one export, and swaps tables under running clients.";
  p.config_help = parameters_help;
  p.magic_config_key = "table";

  p.load = load;
  p.unload = unload;
  p.dump_plugin = dump_plugin;
  p.config = config;
  p.config_complete = config_complete;
  p.get_ready = get_ready;
  p.after_fork = after_fork;
  p.cleanup = cleanup;

  p.list_exports = list_exports;
  p.default_export = default_export;
  p.open = open;
  p.close = close;
  p.export_description = export_description;
  p.get_size = get_size;
  p.block_size = block_size;
  p.can_write = can_write;
  p.can_flush = always;
  p.is_rotational = never;
  p.can_trim = always;
  p.can_zero = always;
  p.can_fast_zero = always;
  p.can_fua = fua_native;
  p.can_multi_conn = always;
  p.can_extents = always;
  p.can_cache = cache_native;

  p.pread = pread;
  p.pwrite = pwrite;
  p.flush = flush;
  p.trim = trim;
  p.zero = zero;
  p.extents = extents;
  p.cache = cache;
  return p;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace
}  // namespace blockloom::nbd

NBDKIT_REGISTER_PLUGIN(blockloom::nbd::plugin)
