#include "server/dump/journal.hpp"

#include <algorithm>

#include "proto/dump/crc32c.hpp"
#include "proto/dump/stream_wire.hpp"
#include "server/base/log.hpp"
#include "server/dump/this_process.hpp"

namespace blockloom::dump {
namespace {

constexpr const char* file = "ranges";
// Records of 24 bytes: begin, end, kind, CRC32C of the first 20.
constexpr std::size_t record_size = 24;
constexpr std::size_t longest = 1u << 20;
enum Kind : std::uint32_t { boot = 1, range = 2 };

void append(std::string& out, std::uint64_t begin, std::uint64_t end, Kind kind) {
  unsigned char bytes[record_size];
  wire::put(bytes, begin, 8);
  wire::put(bytes + 8, end, 8);
  wire::put(bytes + 16, kind, 4);
  wire::put(bytes + 20, crc32c(0, bytes, 20), 4);
  out.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
}

}  // namespace

Result<RangeSet> Journal::read() {
  RangeSet here;
  auto text = back_end_.get(id_, file, 2 * longest);
  if (!text) return text.error();
  if (!*text) return here;
  const std::string& bytes = **text;
  bool this_boot = false;
  for (std::size_t at = 0; at + record_size <= bytes.size(); at += record_size) {
    const auto* p = reinterpret_cast<const unsigned char*>(bytes.data()) + at;
    if (wire::get(p + 20, 4) != crc32c(0, p, 20)) break;  // the torn end
    const std::uint64_t begin = wire::get(p, 8), end = wire::get(p + 8, 8);
    if (wire::get(p + 16, 4) == boot) this_boot = begin == boot_number();
    if (!this_boot) break;
    if (wire::get(p + 16, 4) == range) here.insert(begin, end);
    end_ = at + record_size;
  }
  return here;
}

Result<void> Journal::begin(const RangeSet& here) {
  std::string bytes;
  append(bytes, boot_number(), 0, boot);
  for (const Range& r : here.ranges(longest / record_size / 2))
    append(bytes, r.begin, r.end, range);
  if (auto put = back_end_.put(id_, file, bytes); !put) return put;
  end_ = bytes.size();
  return {};
}

Result<void> Journal::add(const std::vector<Range>& more, const RangeSet& all) {
  if (end_ >= longest) return begin(all);
  std::string bytes;
  for (const Range& r : more)
    append(bytes, r.begin, r.end, range);
  if (auto written = back_end_.write(id_, file, end_, bytes); !written) return written;
  end_ += bytes.size();
  return {};
}

void Journal::remove() {
  if (auto gone = back_end_.erase(id_, file); !gone) log_warning(gone.error().message);
}

}  // namespace blockloom::dump
