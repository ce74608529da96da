#include "proto/dump/stream.hpp"

#include <algorithm>

#include "proto/text/number.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t lines_max = 32;

bool clean(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) >= ' ' && c != 0x7f; });
}

bool is_host(std::string_view text) {
  if (text.empty() || text.size() > 64 || text.front() == '.' || text.front() == '-') return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  });
}

bool is_lower_hex(std::string_view text, std::size_t size) {
  return text.size() == size && text.find_first_not_of("0123456789abcdef") == text.npos;
}

}  // namespace

bool parse_stream_lines(ByteView body, StreamLines& out) {
  out.clear();
  std::string_view text = as_text(body);
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return false;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    const std::size_t equals = line.find('=');
    if (equals == 0 || equals == std::string_view::npos || !clean(line)) return false;
    if (out.size() >= lines_max) return false;
    if (!out.emplace(line.substr(0, equals), line.substr(equals + 1)).second) return false;
  }
  return true;
}

std::string write_stream_lines(const StreamLines& lines) {
  std::string out;
  for (const auto& [key, value] : lines) {
    out += key + "=";
    for (const char c : value)
      out += static_cast<unsigned char>(c) < ' ' || c == 0x7f ? ' ' : c;
    out += '\n';
  }
  return out;
}

std::string parse_stream_hello(ByteView body, StreamHello& out) {
  StreamLines lines;
  if (!parse_stream_lines(body, lines)) return "the hello is not made of lines KEY=VALUE";
  const auto value = [&](std::string_view key) {
    const auto found = lines.find(key);
    return found == lines.end() ? std::string_view() : std::string_view(found->second);
  };
  if (value("version") != "1") return "the hello's version is not 1";
  out = {};
  out.host = value("host");
  if (!is_host(out.host))
    return "the hello's host is not a name of 1 to 64 letters, digits, '.', '-' and '_'";
  out.session = value("session");
  if (!is_lower_hex(out.session, 32)) return "the hello's session is not 32 hex digits";
  out.release = value("release").substr(0, 128);
  out.machine = value("machine").substr(0, 64);
  out.boot_id = value("boot_id").substr(0, 64);
  if (!value("kind").empty() && value("kind") != "auto" &&
      !parse_image_kind(value("kind"), out.kind))
    return "the hello's kind of image is not known";
  if (!value("size").empty() && !parse_whole(value("size"), out.size))
    return "the hello's size is not a number";
  if (!value("chunk").empty() && !parse_whole(value("chunk"), out.chunk))
    return "the hello's chunk is not a number";
  if (out.chunk < wire::chunk_min || out.chunk > wire::chunk_max ||
      (out.chunk & (out.chunk - 1)) != 0)
    return "the hello's chunk is not a power of two from 4096 to 4194304";
  if (!value("window").empty() && !parse_whole(value("window"), out.window))
    return "the hello's window is not a number";
  out.proof = value("proof");
  if (!out.proof.empty() && !is_lower_hex(out.proof, 64))
    return "the hello's proof is not 64 hex digits";
  return {};
}

std::string stream_proof(std::string_view token, std::string_view nonce_hex,
                         std::string_view session, std::string_view host) {
  std::string text(nonce_hex);
  text.append("\n").append(session).append("\n").append(host);
  unsigned char digest[Sha256::size];
  hmac_sha256(token.data(), token.size(), text.data(), text.size(), digest);
  char hex[2 * Sha256::size + 1];
  to_hex(digest, sizeof digest, hex);
  return hex;
}

std::array<unsigned char, Sha256::size> StreamDigest::finish(std::uint64_t length) const {
  Sha256 sum;
  unsigned char bytes[8];
  for (const std::uint32_t crc : crcs_) {
    wire::put(bytes, crc, 4);
    sum.add(bytes, 4);
  }
  wire::put(bytes, length, 8);
  sum.add(bytes, 8);
  std::array<unsigned char, Sha256::size> digest;
  sum.finish(digest.data());
  return digest;
}

std::string encode_frame(std::uint16_t type, std::uint64_t offset, std::string_view body) {
  wire::Header header;
  header.type = type;
  header.length = static_cast<std::uint32_t>(body.size());
  header.offset = offset;
  header.body_crc = body.empty() ? 0 : crc32c(0, body.data(), body.size());
  unsigned char bytes[wire::header_size];
  wire::encode(header, bytes);
  std::string frame(reinterpret_cast<const char*>(bytes), sizeof bytes);
  return frame.append(body);
}

}  // namespace blockloom::dump
