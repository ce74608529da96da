#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace blockloom::cli {

/// How the process ends; part of the interface, in blockloom(8).
enum class Exit : int {
  ok = 0,
  failed = 1,
  usage = 2,
  not_found = 3,
  busy = 4,
  unreachable = 5,
  timed_out = 6,
  permission = 7,
};

enum class Verb : std::uint8_t {
  apply,
  attach_help,
  check,
  clear,
  create,
  deps,
  dump,
  events,
  info,
  iscsi,
  leg,
  load,
  ls,
  message,
  migrate,
  mirror_status,
  reload,
  remove,
  rename,
  resume,
  status,
  suspend,
  table,
  targets,
  top,
  version,
  wait,
};

/// `blockloom dump …`
enum class DumpVerb : std::uint8_t {
  dmesg,
  enable_help,
  format,
  get,
  groups,
  import,
  info,
  ls,
  pin,
  rm,
  show,
  test,
  verify,
  watch,
};

/// A command line, read and checked as far as that goes without the server.
struct Command {
  Verb verb = Verb::version;
  std::string socket;
  bool json = false;

  std::vector<std::string> devices;  ///< as many as the verb takes
  std::string uuid;                  ///< names the device instead; for create: its uuid
  std::vector<std::string> words;
  std::string new_name, new_uuid, description;

  std::optional<std::string> table;  ///< the text itself
  std::string file;                  ///< of a table or configuration; empty or "-": standard input
  bool no_table = false;
  bool read_only = false;

  bool no_flush = false;
  std::optional<double> timeout_s, lease_s;
  bool deferred = false, force = false;
  bool inactive = false, columns = false, no_headings = false, tree = false;
  bool follow = false, dry_run = false, once = false;
  std::optional<std::uint64_t> event_number, since;
  std::uint64_t sector = 0;

  bool in_sync = false;  ///< wait: for the mirrors
  std::string migrate_from, migrate_to;
  std::optional<std::uint64_t> leg_offset, leg_timeout_ms;
  double interval_s = 1;

  // iscsi
  std::string what;  ///< sessions, targets, luns, reservations, kick
  std::uint64_t tsih = 0;
  std::string initiator, target;
  bool all = false;

  DumpVerb dump_verb = DumpVerb::ls;
  std::vector<std::string> dumps;  ///< that `dump` is about; or a host, or a device
  std::string host;                ///< of `dump import`
  std::string output;              ///< of `dump get`: a file; empty: the dump's own name
  bool netconsole = false, unpin = false;
};

/// What a command line says: a command, or a text to print and how to end.
struct Parsed {
  std::optional<Command> command;
  std::string text;
  Exit exit = Exit::ok;
};

Parsed parse(int argc, const char* const* argv);

/// "5", "5s", "500ms", "2m", "1h" in seconds; nothing if it is none of these or over two hours.
std::optional<double> parse_seconds(const std::string& text);

/// Every verb with its options, for the completion's test: "suspend" → "--noflush", …
struct VerbOptions {
  std::string verb;
  std::vector<std::string> options;
};
std::vector<VerbOptions> verb_options();

}  // namespace blockloom::cli
