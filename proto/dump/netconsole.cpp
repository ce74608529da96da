#include "proto/dump/netconsole.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/text/number.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t netconsole_line_max = 8192;
constexpr std::size_t pending_max = 16;
constexpr std::uint32_t body_max = 65536;

std::string_view take_field(std::string_view& header) {
  const std::string_view field = header.substr(0, header.find(','));
  header.remove_prefix(std::min(header.size(), field.size() + 1));
  return field;
}

/// "ncfrag=OFFSET/TOTAL"
bool parse_fragment(std::string_view field, NetconsolePacket& out) {
  constexpr std::string_view key = "ncfrag=";
  if (!field.starts_with(key)) return false;
  field.remove_prefix(key.size());
  const std::size_t slash = field.find('/');
  if (slash == std::string_view::npos) return false;
  return parse_whole(field.substr(0, slash), out.fragment_at) &&
         parse_whole(field.substr(slash + 1), out.fragment_of);
}

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

NetconsolePacket parse_netconsole(std::string_view datagram) {
  NetconsolePacket basic;
  basic.body = datagram;
  const std::size_t end = datagram.find(';');
  if (end == std::string_view::npos || end > 512) return basic;
  std::string_view header = datagram.substr(0, end);
  NetconsolePacket packet;
  packet.extended = true;
  std::string_view field = take_field(header);
  if (!parse_whole(field, packet.level)) {
    // A release comes first with the r prefix: "6.1.0-18-amd64,6,416,…"
    if (field.empty() || field.find_first_of(" \t\n") != std::string_view::npos) return basic;
    packet.release = field;
    if (!parse_whole(take_field(header), packet.level)) return basic;
  }
  if (!parse_whole(take_field(header), packet.seq) || !parse_whole(take_field(header), packet.usec))
    return basic;
  field = take_field(header);
  if (field.size() != 1) return basic;
  packet.continues = field == "c";
  while (!header.empty())
    parse_fragment(take_field(header), packet);
  packet.body = datagram.substr(end + 1);
  return packet;
}

std::string netconsole_text(std::string_view body) {
  // The dictionary follows the first newline, each of its lines begun by a blank.
  std::string_view text = body.substr(0, body.find('\n'));
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '\\' && i + 3 < text.size() && text[i + 1] == 'x' && hex_digit(text[i + 2]) >= 0 &&
        hex_digit(text[i + 3]) >= 0) {
      const int value = hex_digit(text[i + 2]) * 16 + hex_digit(text[i + 3]);
      if (value >= ' ' && value != 0x7f) {
        out += static_cast<char>(value);
        i += 3;
        continue;
      }
    }
    if ((c < ' ' && c != '\t') || c == 0x7f)
      out += fmt::format("\\x{:02x}", c);
    else
      out += static_cast<char>(c);
  }
  return out;
}

std::vector<NetconsoleReader::Line> NetconsoleReader::take(std::string_view datagram) {
  std::vector<Line> out;
  const NetconsolePacket packet = parse_netconsole(datagram);
  if (!packet.extended)
    take_basic(packet.body, out);
  else if (packet.fragment_of == 0)
    take_whole(packet, packet.body, out);
  else
    take_fragment(packet, out);
  return out;
}

void NetconsoleReader::take_basic(std::string_view text, std::vector<Line>& out) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    partial_.append(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (end == std::string_view::npos && partial_.size() < netconsole_line_max) break;
    Line line;
    line.text = netconsole_text(partial_);
    partial_.clear();
    out.push_back(std::move(line));
  }
}

void NetconsoleReader::note_sequence(std::uint64_t seq, std::uint64_t usec,
                                     std::vector<Line>& out) {
  if (next_seq_ && seq < *next_seq_ && usec < last_usec_ && last_usec_ - usec > 5'000'000) {
    // Both begin again: the sender did.
    Line line;
    line.kind = Line::Kind::reboot;
    line.text = "--- the sender has started again ---";
    out.push_back(std::move(line));
    pending_.clear();
    next_seq_ = seq;
    last_usec_ = 0;
  }
  if (next_seq_ && seq > *next_seq_) {
    Line line;
    line.kind = Line::Kind::gap;
    line.lost = seq - *next_seq_;
    line.text = fmt::format("--- {} message{} lost ---", line.lost, line.lost == 1 ? "" : "s");
    out.push_back(std::move(line));
  }
  if (!next_seq_ || seq >= *next_seq_) next_seq_ = seq + 1;
  last_usec_ = std::max(last_usec_, usec);
}

void NetconsoleReader::take_whole(const NetconsolePacket& packet, std::string_view body,
                                  std::vector<Line>& out) {
  note_sequence(packet.seq, packet.usec, out);
  Line line;
  line.text = netconsole_text(body);
  line.level = packet.level;
  line.usec = packet.usec;
  line.timed = true;
  out.push_back(std::move(line));
}

void NetconsoleReader::take_fragment(const NetconsolePacket& packet, std::vector<Line>& out) {
  if (packet.fragment_of > body_max || packet.fragment_at > packet.fragment_of ||
      packet.body.size() > packet.fragment_of - packet.fragment_at || packet.body.empty())
    return;
  auto found = std::find_if(pending_.begin(), pending_.end(),
                            [&](const Pending& p) { return p.seq == packet.seq; });
  if (found == pending_.end() || found->total != packet.fragment_of) {
    if (found != pending_.end()) pending_.erase(found);
    if (pending_.size() >= pending_max) drop_oldest(out);
    Pending fresh;
    fresh.seq = packet.seq;
    fresh.usec = packet.usec;
    fresh.level = packet.level;
    fresh.total = packet.fragment_of;
    fresh.body.assign(packet.fragment_of, '\0');
    fresh.got.assign(packet.fragment_of, false);
    pending_.push_back(std::move(fresh));
    found = std::prev(pending_.end());
  }
  for (std::size_t i = 0; i < packet.body.size(); ++i) {
    const std::size_t at = packet.fragment_at + i;
    if (!found->got[at]) ++found->have;
    found->got[at] = true;
    found->body[at] = packet.body[i];
  }
  if (found->have < found->total) return;
  const Pending whole = std::move(*found);
  pending_.erase(found);
  NetconsolePacket all = packet;
  take_whole(all, whole.body, out);
}

void NetconsoleReader::drop_oldest(std::vector<Line>& out) {
  const Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  note_sequence(oldest.seq, oldest.usec, out);
  // What came of it, up to the first missing byte.
  const auto first = std::find(oldest.got.begin(), oldest.got.end(), false);
  Line line;
  line.text =
      netconsole_text(std::string_view(oldest.body)
                          .substr(0, static_cast<std::size_t>(first - oldest.got.begin()))) +
      " --- the rest of this message was lost ---";
  line.level = oldest.level;
  line.usec = oldest.usec;
  line.timed = true;
  out.push_back(std::move(line));
}

std::vector<NetconsoleReader::Line> NetconsoleReader::flush() {
  std::vector<Line> out;
  while (!pending_.empty())
    drop_oldest(out);
  if (!partial_.empty()) {
    Line line;
    line.text = netconsole_text(partial_);
    partial_.clear();
    out.push_back(std::move(line));
  }
  return out;
}

}  // namespace blockloom::dump
