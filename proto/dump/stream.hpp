#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "proto/dump/sha256.hpp"
#include "proto/dump/stream_wire.hpp"
#include "proto/dump/vmcore.hpp"

namespace blockloom::dump {

/// The lines KEY=VALUE of a HELLO, WELCOME, REFUSE or DONE. Keys and values without control
/// characters; a key once.
using StreamLines = std::map<std::string, std::string, std::less<>>;
bool parse_stream_lines(ByteView body, StreamLines& out);
std::string write_stream_lines(const StreamLines& lines);

/// What a sender says of itself and of its image.
struct StreamHello {
  std::string host;     ///< its name; letters, digits, '.', '-', '_'
  std::string session;  ///< 32 hex digits of its own choice: the same after a broken connection
  std::string release, machine, boot_id;
  ImageKind kind = ImageKind::unknown;  ///< unknown: the server looks at the first bytes
  std::uint64_t size = 0;               ///< of the stream; 0: not known yet
  std::uint32_t chunk = wire::chunk_default;
  std::uint64_t window = 0;  ///< bytes that the sender keeps until they are durable
  std::string proof;         ///< HMAC-SHA256 of the token, in hex; empty without a token
};
/// Empty: it is good; else what is wrong with it.
std::string parse_stream_hello(ByteView body, StreamHello& out);

/// What a sender that knows the token says: HMAC(token, nonce, session, host).
std::string stream_proof(std::string_view token, std::string_view nonce_hex,
                         std::string_view session, std::string_view host);

/// The digest of a stream: SHA-256 over the CRC32C of each chunk in order, then the length.
class StreamDigest {
 public:
  void add(std::uint32_t chunk_crc) { crcs_.push_back(chunk_crc); }
  std::size_t chunks() const noexcept { return crcs_.size(); }
  void truncate(std::size_t chunks) { crcs_.resize(chunks < crcs_.size() ? chunks : crcs_.size()); }
  const std::vector<std::uint32_t>& crcs() const noexcept { return crcs_; }
  std::array<unsigned char, Sha256::size> finish(std::uint64_t length) const;

 private:
  std::vector<std::uint32_t> crcs_;
};

/// A frame, header and body, as it is sent.
std::string encode_frame(std::uint16_t type, std::uint64_t offset, std::string_view body);

}  // namespace blockloom::dump
