#include <array>
#include <cstddef>

#include <fmt/format.h>

#include "proto/text/number.hpp"
#include "server/iscsi/reservations.hpp"

namespace blockloom {
namespace {

constexpr char first_line[] = "blockloom-reservations 1";

Error corrupt(std::size_t line) {
  return {Errc::corrupt,
          fmt::format("line {} of the saved reservations is not as it was written", line)};
}

std::string hex(const std::array<std::uint8_t, 6>& isid) {
  std::string text;
  for (const std::uint8_t byte : isid)
    text += fmt::format("{:02x}", byte);
  return text;
}

template <std::size_t Count>
bool split(std::string_view line, std::array<std::string_view, Count>& words) {
  for (std::size_t i = 0; i < Count; ++i) {
    const auto blank = line.find(' ');
    if ((blank == std::string_view::npos) != (i + 1 == Count)) return false;
    words[i] = line.substr(0, blank);
    if (words[i].empty()) return false;
    if (i + 1 < Count) line.remove_prefix(blank + 1);
  }
  return true;
}

}  // namespace

// A line each: "type N", then "KEY INITIATOR ISID TARGET PORT ALL HOLDER" of each registration.
// iSCSI names have no blanks.
std::string Reservations::save() const {
  std::string text = fmt::format("{}\ntype {}\n", first_line, type_ ? int(*type_) : 0);
  for (const Registration& r : registrations_) {
    const auto& isid = r.ports.initiator.isid;
    text += fmt::format("{:016x} {} {} {} {} {} {}\n", r.key, r.ports.initiator.name,
                        isid ? hex(*isid) : "-", r.ports.target, r.ports.port, int(r.all_ports),
                        int(holder_ && holder_->ports == r.ports));
  }
  return text;
}

Result<Reservations> Reservations::load(std::string_view text) {
  Reservations loaded;
  unsigned type = 0;
  for (std::size_t line_number = 1; !text.empty(); ++line_number) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) return corrupt(line_number);
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (line_number == 1) {
      if (line != first_line) return corrupt(1);
      continue;
    }
    if (line_number == 2) {
      if (!line.starts_with("type ") || !parse_whole(line.substr(5), type, 10)) return corrupt(2);
      loaded.type_ = scsi::reservation_type(type);
      if (type != 0 && !loaded.type_) return corrupt(2);
      continue;
    }
    std::array<std::string_view, 7> words;
    Registration r;
    unsigned all = 0, holder = 0;
    std::uint64_t isid = 0;
    if (!split(line, words) || !parse_whole(words[0], r.key, 16) ||
        !parse_whole(words[4], r.ports.port, 10) || !parse_whole(words[5], all, 10) || all > 1 ||
        !parse_whole(words[6], holder, 10) || holder > 1 || r.key == 0)
      return corrupt(line_number);
    if (words[2] != "-") {
      if (words[2].size() != 12 || !parse_whole(words[2], isid, 16)) return corrupt(line_number);
      r.ports.initiator.isid.emplace();
      scsi::store<6>(r.ports.initiator.isid->data(), isid);
    }
    r.ports.initiator.name = std::string(words[1]);
    r.ports.target = std::string(words[3]);
    r.all_ports = all == 1;
    if (loaded.registrations_.size() == most_registrations || loaded.find(r.ports) != nullptr ||
        (holder == 1 && loaded.holder_))
      return corrupt(line_number);
    if (holder == 1) loaded.holder_ = r;
    loaded.registrations_.push_back(std::move(r));
  }
  // A reservation has a holder, or is everybody's who is registered.
  const bool held = loaded.type_ && !all_registrants(*loaded.type_);
  if (held != loaded.holder_.has_value() || (loaded.type_ && loaded.empty())) return corrupt(2);
  loaded.aptpl_ = true;
  return loaded;
}

}  // namespace blockloom
