#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump/bytes.hpp"

namespace blockloom::dump {

// Linux netconsole (Documentation/networking/netconsole.rst): UDP, no ack.

inline constexpr std::uint16_t netconsole_port = 6666;

/// One datagram. A basic one is text only; an extended one has the header of /dev/kmsg.
struct NetconsolePacket {
  bool extended = false;
  std::string_view release;  ///< with the r prefix; else empty
  unsigned level = 0;        ///< facility * 8 + severity
  std::uint64_t seq = 0, usec = 0;
  bool continues = false;                          ///< contflag 'c': goes on in the line before
  std::uint32_t fragment_at = 0, fragment_of = 0;  ///< ncfrag; 0 of 0: whole
  std::string_view body;                           ///< text, and perhaps a dictionary
};

/// Never fails: what has no extended header is basic text. Views into the datagram.
NetconsolePacket parse_netconsole(std::string_view datagram);

/// What a log shows: the text with \xNN resolved where that gives a printable character or UTF-8,
/// control characters shown as \xNN, without the dictionary.
std::string netconsole_text(std::string_view body);

/// Puts the packets of one sender in order, as far as a datagram protocol lets it.
class NetconsoleReader {
 public:
  struct Line {
    enum class Kind : std::uint8_t { text, gap, reboot };
    Kind kind = Kind::text;
    std::string text;        ///< without a newline; of a gap or reboot: a sentence
    std::uint64_t lost = 0;  ///< gap: messages
    unsigned level = 0;
    std::uint64_t usec = 0;  ///< since boot; 0 if unknown
    bool timed = false;      ///< usec is known
  };

  /// The lines that are whole now.
  std::vector<Line> take(std::string_view datagram);
  /// The sender is silent: gives out what waited for its rest, marked as cut.
  std::vector<Line> flush();

 private:
  struct Pending {
    std::uint64_t seq = 0, usec = 0;
    unsigned level = 0;
    std::uint32_t total = 0, have = 0;
    std::string body;
    std::vector<bool> got;
  };

  void take_basic(std::string_view text, std::vector<Line>& out);
  void take_whole(const NetconsolePacket& packet, std::string_view body, std::vector<Line>& out);
  void take_fragment(const NetconsolePacket& packet, std::vector<Line>& out);
  void note_sequence(std::uint64_t seq, std::uint64_t usec, std::vector<Line>& out);
  void drop_oldest(std::vector<Line>& out);

  std::string partial_;  // a basic line without its end yet
  std::deque<Pending> pending_;
  std::optional<std::uint64_t> next_seq_;
  std::uint64_t last_usec_ = 0;
};

}  // namespace blockloom::dump
