#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/control/value.hpp"
#include "proto/dump/range_set.hpp"
#include "server/base/error.hpp"
#include "server/dump/back_end.hpp"

namespace blockloom::dump {

enum class State : std::uint8_t {
  receiving,
  complete,    ///< every byte of the length that the sender named is here
  holes,       ///< the sender said that it was done, and bytes are missing
  incomplete,  ///< it ended before the end; `reason` says how
};
std::string_view to_string(State state) noexcept;  ///< "receiving", "complete", "holes", …

enum class Reason : std::uint8_t {
  none,
  timeout,     ///< the sender fell silent
  new_herald,  ///< the same machine began another dump
  no_space,    ///< the store or a quota was full
  shutdown,    ///< the server ended; it goes on if the sender still does
  no_header,   ///< netdump: finished without a kernel dump header, so the length is not known
  bad_header,  ///< netdump: the header's parity or length is wrong
  sender,      ///< the sender says that it could not read its memory to the end
  digest,      ///< the stream's digest is not that of what came
  malformed,   ///< a flattened stream that breaks its format, or ends before its end marker
  store,       ///< writing failed
};
std::string_view to_string(Reason reason) noexcept;

/// What is known of a dump: record.json beside it.
struct Record {
  DumpId id;
  State state = State::receiving;
  Reason reason = Reason::none;
  std::string detail;  ///< a sentence beside the reason

  std::string protocol;  ///< "netdump", "stream", "import"
  std::string address;   ///< the sender's
  std::string hostname;  ///< as the sender calls itself
  std::string kernel, machine;
  std::string panic;                              ///< the panic's line
  std::string signature;                          ///< what groups it; see find_panic()
  std::string label;                              ///< a herald's path
  double started = 0, updated = 0, finished = 0;  ///< seconds since 1970
  double crash_time = 0;

  std::uint64_t bytes = 0;   ///< of the image that are here
  std::uint64_t length = 0;  ///< of the image, as the sender says; 0: not said
  std::uint64_t missing = 0;
  std::vector<Range> holes;  ///< the first of them

  std::string kind;         ///< of the image: "minidump", "elf", "kdump", …
  std::string image;        ///< the file's name, once it is over
  std::string compression;  ///< "gzip", "zstd" or empty
  bool encrypted = false;
  std::string sha256;         ///< of the image as it is stored
  std::string stream_digest;  ///< what the sender's END said; empty for other protocols
  std::uint32_t chunk = 0;
  std::string session;  ///< of a stream: finds it again
  std::uint64_t packets = 0, duplicates = 0;
  bool netconsole = false;  ///< netconsole.log is beside it
  bool dmesg = false;       ///< dmesg.txt is beside it
  bool unsynced = false;    ///< its end was acknowledged before it was durable
  bool pinned = false;
  std::vector<std::string> lost_targets;  ///< copies that were left behind

  bool over() const noexcept { return state != State::receiving; }
};

/// The JSON object; `find`-able members are stable names, documented in control-api.md.
rpc::Value to_value(const Record& record);
std::string record_text(const Record& record);
/// Errc::corrupt if it is no record.
Result<Record> parse_record(std::string_view text);

/// "complete", "complete with holes", "incomplete (timeout)": for people.
std::string state_text(const Record& record);

}  // namespace blockloom::dump
