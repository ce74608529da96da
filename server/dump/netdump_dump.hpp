#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/dump/kernel_dump_header.hpp"
#include "proto/dump/netdump.hpp"
#include "server/dump/host.hpp"
#include "server/dump/journal.hpp"
#include "server/dump/netdump.hpp"

namespace blockloom::dump {

/// Packets that wait for the worker, with one buffer for their payloads.
struct NetdumpBatch {
  struct Item {
    NetdumpType type;
    std::uint32_t seqno;
    std::uint64_t offset;
    std::size_t at, size;  // in data
    UdpPeer peer;
  };
  std::vector<Item> items;
  std::vector<std::byte> data;
};

/// The worker's side of a netdump session: writes what came, and decides what the dump is when it
/// ends. On its session's strand.
class NetdumpDump {
 public:
  NetdumpDump(Host& host, const Address& client, std::string label);
  /// One that an earlier server began.
  NetdumpDump(Host& host, const Address& client, const Record& record);
  ~NetdumpDump();

  struct Outcome {
    std::vector<std::size_t> done;  ///< the items that may be acknowledged
    bool over = false;              ///< FINISHED was carried out
    bool failed = false;            ///< nothing more of this dump is taken
  };
  Outcome apply(const NetdumpBatch& batch, std::uint64_t duplicates);

  /// The client falls silent, begins anew, or the server goes.
  void end_early(Reason reason, std::string detail);

 private:
  Result<void> open();
  Result<void> write(const NetdumpBatch& batch, std::size_t first, std::size_t last,
                     Outcome& outcome);
  bool take_header(ByteView bytes);
  Result<void> take_key(std::uint64_t offset, ByteView bytes);
  void finish();
  void judge(State& state, Reason& reason, std::string& detail, std::uint64_t& length);
  void end(State state, Reason reason, std::string detail, std::uint64_t length);
  void find_messages();
  void name_image();
  void write_info(std::string_view outcome);
  void fail(const Error& error);

  Host& host_;
  const Address client_;
  const std::string label_;
  std::optional<Record> adopted_;
  std::unique_ptr<Reception> reception_;
  std::unique_ptr<Journal> journal_;
  std::optional<KernelDumpHeader> header_;
  std::string key_;
  bool failed_ = false;
};

}  // namespace blockloom::dump
