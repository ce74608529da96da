#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/dump/flattened.hpp"
#include "proto/dump/stream.hpp"
#include "server/dump/host.hpp"

namespace blockloom::dump {

/// A chunk that came, checked against its CRC; or a run of zeros.
struct StreamChunk {
  std::vector<std::byte> bytes;  ///< empty: zeros
  std::uint64_t length = 0;
  std::uint32_t crc = 0;  ///< of bytes
};

/// The worker's side of a stream: stores what came in order, rearranges a flattened one, makes it
/// durable, and judges the end. On its session's strand.
class StreamDump {
 public:
  StreamDump(Host& host, const Address& sender);
  ~StreamDump();

  /// Finds the dump of this session or begins one.
  Result<void> open(const StreamHello& hello);
  /// After a restart of the server: the dump of this record, as far as it is durable.
  Result<void> reopen(const Record& record);

  Result<void> put_dmesg(std::string_view text);
  /// The next chunks of the stream.
  Result<void> append(const std::vector<StreamChunk>& chunks);
  /// Makes it durable; then all before durable() may be forgotten by the sender.
  Result<void> sync();
  /// The sender is done. Afterwards record() says what it is.
  Result<void> finish(std::uint64_t length, ByteView digest);
  void end_early(Reason reason, std::string detail);

  std::uint64_t received() const noexcept { return position_; }
  std::uint64_t durable() const noexcept { return durable_; }
  std::uint32_t chunk() const noexcept { return chunk_; }
  bool has_dmesg() const;
  bool over() const noexcept { return over_; }
  const Record& record() const;

 private:
  Result<void> append_all(const std::vector<StreamChunk>& chunks);
  Result<void> take(const StreamChunk& chunk, std::vector<DumpWrite>& writes);
  Result<void> take_zeros(std::uint64_t length);
  Result<void> take_flat(ByteView bytes, std::vector<DumpWrite>& writes);
  Result<void> write(std::vector<DumpWrite>& writes);
  Result<void> load_state();
  Result<void> save_state();
  void begin_kind(ByteView first);
  void judge(std::uint64_t length, ByteView digest, State& state, Reason& reason,
             std::string& detail);
  void end(State state, Reason reason, std::string detail);
  std::uint32_t crc_of_zeros(std::uint64_t length);

  Host& host_;
  const Address sender_;
  std::unique_ptr<Reception> reception_;
  Record record_;  // once it is over
  bool over_ = false;

  std::uint32_t chunk_ = wire::chunk_default;
  ImageKind kind_ = ImageKind::unknown;
  bool kind_known_ = false;
  std::unique_ptr<FlattenedParser> flat_;  // of a flattened stream
  Result<void> failure_;                   // the first; nothing is taken after it
  std::string trouble_;  // what broke the flattened format; the rest is passed over
  StreamDigest digest_;
  std::uint64_t position_ = 0, durable_ = 0;
  std::size_t saved_crcs_ = 0;
  std::uint32_t zero_crc_ = 0;  // of a whole chunk of zeros; 0: not made yet
};

}  // namespace blockloom::dump
