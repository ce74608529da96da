#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>
#include <isa-l/crc.h>

#include "server/target/mirror/region_log.hpp"
#include "server/target/mirror/region_log_storage.hpp"

// The bytes of a page, little-endian:
//   0 magic[8]  8 mirror uuid[16]  24 page u32  28 version u32  32 commit u64  60 crc32c u32
//   64 content: page 0: size u64, region size u64, epoch u64, closed u8, copy u8, copies u8,
//      roles u8[9], held u16 (a bit a leg), leg uuid[16][9]; others: ten words for each 64 regions.
// The CRC covers the whole page, itself as zero.
namespace blockloom::mirror {
namespace {

constexpr std::uint32_t version = 1;
constexpr std::size_t crc_at = 60;

static_assert(std::endian::native == std::endian::little,
              "the record is written in the machine's order, which is to be little-endian");

template <class T>
T load_at(const std::byte* bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes + at, sizeof value);
  return value;
}

template <class T>
void store_at(std::byte* bytes, std::size_t at, T value) {
  std::memcpy(bytes + at, &value, sizeof value);
}

std::uint32_t crc_step(const std::byte* bytes, std::size_t n, std::uint32_t crc) {
  // ISA-L takes a pointer to non-const and an int length, and leaves the inversions to us.
  return crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes)),
                     static_cast<int>(n), crc);
}

std::uint32_t page_crc(const std::byte* page) {
  constexpr std::byte zero[4]{};
  std::uint32_t crc = crc_step(page, crc_at, ~0U);
  crc = crc_step(zero, sizeof zero, crc);
  return ~crc_step(page + crc_at + 4, log_page_size - crc_at - 4, crc);
}

bool has_magic(const std::byte* page) {
  return std::memcmp(page, log_page_magic, sizeof log_page_magic) == 0;
}

bool whole(const std::byte* page) {
  return has_magic(page) && load_at<std::uint32_t>(page, crc_at) == page_crc(page);
}

std::uint64_t commit_of(const std::byte* page) {
  return load_at<std::uint64_t>(page, 32);
}

bool blank(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{}; });
}

std::string hex(const Uuid& uuid) {
  std::string text;
  for (const std::uint8_t byte : uuid)
    text += fmt::format("{:02x}", byte);
  return text;
}

Error damaged(std::uint32_t page, std::string_view why) {
  return {Errc::corrupt, fmt::format("page {} of the mirror's log is damaged: {}", page, why)};
}

constexpr std::size_t at_size = 64, at_region_size = 72, at_epoch = 80, at_closed = 88,
                      at_copy = 89, at_copies = 90, at_roles = 91, at_held = 100, at_legs = 112;
static_assert(at_roles + max_legs <= at_held && at_held + 2 <= at_legs);

}  // namespace

void RegionLog::encode(std::uint32_t page, std::byte* out) const {
  std::memset(out, 0, log_page_size);
  std::memcpy(out, log_page_magic, sizeof log_page_magic);
  std::memcpy(out + 8, identity_.mirror.data(), 16);
  store_at(out, 24, page);
  store_at(out, 28, version);
  store_at(out, 32, number_);
  if (page == 0) {
    store_at(out, at_size, identity_.size);
    store_at(out, at_region_size, identity_.region_size);
    store_at(out, at_epoch, epoch_);
    store_at<std::uint8_t>(out, at_closed, closed_ ? 1 : 0);
    store_at(out, at_copy, identity_.copy);
    store_at(out, at_copies, identity_.copies);
    std::memcpy(out + at_roles, identity_.roles.data(), max_legs);
    store_at(out, at_held, held_);
    std::memcpy(out + at_legs, identity_.legs.data(), sizeof identity_.legs);
  } else {
    std::memcpy(out + log_head_size, storage_->page_words(page),
                std::size_t{log_groups_per_page} * log_planes * 8);
  }
  store_at(out, crc_at, page_crc(out));
}

void RegionLog::for_copy(std::span<std::byte> header_page, std::uint8_t copy) noexcept {
  store_at(header_page.data(), at_copy, copy);
  store_at(header_page.data(), crc_at, page_crc(header_page.data()));
}

Result<void> RegionLog::take_header(const std::byte* page, const LogIdentity& expect) {
  if (const auto found = load_at<std::uint32_t>(page, 28); found != version)
    return Error{Errc::invalid, fmt::format("the mirror's log has format version {}; this program "
                                            "reads version {}",
                                            found, version)};
  std::memcpy(identity_.mirror.data(), page + 8, 16);
  if (identity_.mirror != expect.mirror)
    return Error{Errc::invalid, fmt::format("the log belongs to the mirror {}, not to {}",
                                            hex(identity_.mirror), hex(expect.mirror))};
  const auto size = load_at<std::uint64_t>(page, at_size);
  const auto region_size = load_at<std::uint64_t>(page, at_region_size);
  if (size != expect.size || region_size != expect.region_size)
    return Error{Errc::invalid,
                 fmt::format("the log is of a mirror of {} bytes in regions of {} bytes; this one "
                             "has {} in regions of {}",
                             size, region_size, expect.size, expect.region_size)};
  epoch_ = load_at<std::uint64_t>(page, at_epoch);
  const auto closed = load_at<std::uint8_t>(page, at_closed);
  identity_.copy = load_at<std::uint8_t>(page, at_copy);
  identity_.copies = load_at<std::uint8_t>(page, at_copies);
  bool members = false;
  for (unsigned leg = 0; leg < max_legs; ++leg) {
    const auto role = load_at<std::uint8_t>(page, at_roles + leg);
    if (role > static_cast<std::uint8_t>(Role::member))
      return damaged(0, fmt::format("leg {} has the unknown role {}", leg, role));
    identity_.roles[leg] = static_cast<Role>(role);
    members = members || identity_.roles[leg] == Role::member;
  }
  std::memcpy(identity_.legs.data(), page + at_legs, sizeof identity_.legs);
  held_ = load_at<LegMask>(page, at_held);
  if (closed > 1 || held_ >> max_legs != 0 || identity_.copies == 0 || !members ||
      epoch_ == ~std::uint64_t{0})
    return damaged(0, "its fields make no sense");
  closed_ = closed == 1;
  return {};
}

Result<void> RegionLog::take_regions(std::uint32_t page, const std::byte* bytes) {
  std::uint64_t* words = storage_->page_words(page);
  PageState& state = storage_->pages[page];
  const std::uint64_t first = std::uint64_t{page - 1} * log_regions_per_page;
  LegMask members = 0;
  for (unsigned leg = 0; leg < max_legs; ++leg)
    if (identity_.roles[leg] == Role::member) members |= leg_bit(leg);
  for (unsigned group = 0; group < log_groups_per_page; ++group) {
    const std::uint64_t region = first + group * std::uint64_t{64};
    const std::uint64_t n = region < regions_ ? std::min<std::uint64_t>(64, regions_ - region) : 0;
    const std::uint64_t valid = n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
    std::uint64_t all_stale = valid;
    for (unsigned plane = 0; plane < log_planes; ++plane) {
      const std::size_t at = std::size_t{group} * log_planes + plane;
      const auto word = load_at<std::uint64_t>(bytes, log_head_size + at * 8);
      if ((word & ~valid) != 0) return damaged(page, "it marks regions past the device's end");
      if (plane > 0 && (members & leg_bit(plane - 1)) != 0) all_stale &= word;
      if (word == 0) continue;  // leave the kernel's zero page alone
      words[at] = word;
      const auto ones = static_cast<unsigned>(std::popcount(word));
      counts_[plane] += ones;
      state.counts[plane] = static_cast<std::uint16_t>(state.counts[plane] + ones);
    }
    // I5: there is no state of the mirror in which no leg holds a region.
    if (all_stale != 0)
      return damaged(page,
                     fmt::format("it says that no leg holds region {}",
                                 region + static_cast<unsigned>(std::countr_zero(all_stale))));
  }
  return {};
}

// A row holds two generations of two copies. Any whole copy may be believed, since whatever was
// handed to a commit was true when it was; the newest is the one to believe. A row that is not as
// a finished commit leaves it is written again with the next.
Result<void> RegionLog::take_page(std::uint32_t page, std::span<const std::byte> row,
                                  const LogIdentity& expect) {
  const std::byte* best = nullptr;
  std::array<const std::byte*, 4> copies{};
  bool any_magic = false;
  bool other_mirror = false;
  for (unsigned i = 0; i < 4; ++i) {
    const std::byte* copy = row.data() + std::size_t{i} * log_page_size;
    any_magic = any_magic || has_magic(copy);
    if (!whole(copy) || load_at<std::uint32_t>(copy, 24) != page) continue;
    if (page > 0 && std::memcmp(copy + 8, expect.mirror.data(), 16) != 0) {
      other_mirror = true;
      continue;
    }
    copies[i] = copy;
    if (!best || commit_of(copy) > commit_of(best)) {
      best = copy;
      storage_->pages[page].newest = static_cast<std::uint8_t>(i / 2);
    }
  }
  if (!best) {
    if (page == 0 && !any_magic)
      return Error{Errc::invalid, "there is no mirror log here: its first page has no magic"};
    return damaged(page, other_mirror ? "it belongs to another mirror" : "no copy of it is whole");
  }
  const unsigned newest = storage_->pages[page].newest;
  const std::byte* a = copies[newest * 2];
  const std::byte* b = copies[newest * 2 + 1];
  if (!a || !b || commit_of(a) != commit_of(b)) {
    (a && b) ? ++torn_ : ++healed_;
    touch(page);
  } else if (const unsigned older = (newest ^ 1U) * 2; !copies[older] || !copies[older + 1]) {
    const auto lost = row.subspan(std::size_t{older} * log_page_size, 2 * log_page_size);
    if (!blank(lost)) {
      // A commit that a crash cut short, most likely. After an orderly end there was none: then
      // it was the newer of the two, and damaged.
      const bool both = !copies[older] && !copies[older + 1];
      if (both && closed_ && page > 0) return damaged(page, "both copies of one generation are");
      ++(both ? torn_ : healed_);
      touch(page);
    }
  }
  completed_ = std::max(completed_, commit_of(best));
  return page == 0 ? take_header(best, expect) : take_regions(page, best);
}

Result<RegionLog> RegionLog::load(LogSource& source, const LogIdentity& expect) {
  // What is allocated below depends on what is expected, never on what is read.
  if (Result<void> ok = check(expect); !ok) return ok.error();
  RegionLog log;
  if (Result<void> ok = log.shape(expect); !ok) return ok.error();
  const auto pages = static_cast<std::uint32_t>(log.storage_->pages.size());
  std::vector<std::byte> rows(std::min<std::size_t>(pages, log_batch_pages) * log_row_size);
  for (std::uint32_t page = 0; page < pages;) {
    // The header alone first: who reads another mirror's log is told so.
    const std::uint32_t n = page == 0 ? 1 : std::min<std::uint32_t>(pages - page, log_batch_pages);
    const std::span<std::byte> batch(rows.data(), std::size_t{n} * log_row_size);
    if (Result<void> ok = source.read(std::uint64_t{page} * log_row_size, batch); !ok)
      return ok.error();
    for (std::uint32_t i = 0; i < n; ++i, ++page) {
      const auto row = batch.subspan(std::size_t{i} * log_row_size, log_row_size);
      if (Result<void> ok = log.take_page(page, row, expect); !ok) return ok.error();
    }
  }
  if (log.completed_ >= ~std::uint64_t{0} - (std::uint64_t{1} << 32))
    return damaged(0, "its commit number makes no sense");
  log.number_ = log.completed_;
  for (const std::uint32_t page : log.pending_)
    log.storage_->pages[page].ticket = log.next_ticket();
  return log;
}

}  // namespace blockloom::mirror
