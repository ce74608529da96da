#include "server/target/mirror/region_log.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include "server/target/mirror/region_log_storage.hpp"

namespace blockloom::mirror {

namespace {

constexpr bool power_of_two(std::uint64_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

}  // namespace

Result<void> RegionLog::check(const LogIdentity& identity) {
  if (!power_of_two(identity.region_size) || identity.region_size < 4096)
    return Error{Errc::invalid, fmt::format("a region of {} bytes: expected a power of two from "
                                            "4096",
                                            identity.region_size)};
  if (identity.size == 0 || identity.size % 512 != 0 || identity.size > (std::uint64_t{1} << 63))
    return Error{Errc::invalid,
                 fmt::format("a mirror of {} bytes: expected a multiple of 512", identity.size)};
  const std::uint64_t regions = regions_of(identity);
  if (regions > max_regions)
    return Error{Errc::limit, fmt::format("{} regions of {} bytes: at most {} are possible; take "
                                          "a larger region size",
                                          regions, identity.region_size, max_regions)};
  return {};
}

std::uint64_t RegionLog::regions_of(const LogIdentity& identity) noexcept {
  return identity.size / identity.region_size + (identity.size % identity.region_size != 0 ? 1 : 0);
}

std::uint64_t RegionLog::bytes_needed(std::uint64_t regions) noexcept {
  return (1 + (regions + log_regions_per_page - 1) / log_regions_per_page) * log_row_size;
}

RegionLog::RegionLog() = default;
RegionLog::RegionLog(RegionLog&&) noexcept = default;
RegionLog& RegionLog::operator=(RegionLog&&) noexcept = default;
RegionLog::~RegionLog() = default;

Result<void> RegionLog::shape(const LogIdentity& identity) {
  identity_ = identity;
  regions_ = regions_of(identity);
  const auto pages = static_cast<std::uint32_t>(bytes_needed(regions_) / log_row_size);
  storage_ = std::make_unique<Storage>(pages);
  if (!storage_->bits)
    return Error{Errc::no_memory, fmt::format("no memory for the marks of {} regions", regions_)};
  return {};
}

Result<RegionLog> RegionLog::create(const LogIdentity& identity, bool sync) {
  if (Result<void> ok = check(identity); !ok) return ok.error();
  RegionLog log;
  if (Result<void> ok = log.shape(identity); !ok) return ok.error();
  log.rewrite();
  if (sync) {
    bool first = true;
    for (unsigned leg = 0; leg < max_legs; ++leg) {
      if (identity.roles[leg] != Role::member) continue;
      if (!first) log.set_stale_everywhere(leg, true);
      first = false;
    }
  }
  return log;
}

// Tickets: a change goes into the commit after the one that runs, if one does.
RegionLog::Ticket RegionLog::touch(std::uint32_t page) {
  PageState& state = storage_->pages[page];
  if (!state.pending) {
    state.pending = true;
    pending_.push_back(page);
  }
  state.ticket = next_ticket();
  return state.ticket;
}

RegionLog::Ticket RegionLog::change(std::uint64_t region, unsigned plane, bool value) {
  const auto page = static_cast<std::uint32_t>(1 + region / log_regions_per_page);
  PageState& state = storage_->pages[page];
  std::uint64_t& word = storage_->word(region, plane);
  const std::uint64_t bit = std::uint64_t{1} << (region % 64);
  if (((word & bit) != 0) == value) return state.ticket;
  word ^= bit;
  if (value)
    ++counts_[plane], ++state.counts[plane];
  else
    --counts_[plane], --state.counts[plane];
  return touch(page);
}

RegionLog::Ticket RegionLog::set_dirty(std::uint64_t region, bool dirty) {
  return change(region, 0, dirty);
}

RegionLog::Ticket RegionLog::set_stale(std::uint64_t region, LegMask legs, bool stale) {
  Ticket ticket = storage_->pages[1 + region / log_regions_per_page].ticket;
  for (unsigned leg = 0; leg < max_legs; ++leg)
    if (legs & leg_bit(leg)) ticket = change(region, 1 + leg, stale);
  return ticket;
}

RegionLog::Ticket RegionLog::set_stale_everywhere(unsigned leg, bool stale) {
  Ticket ticket = completed_;
  for (std::uint64_t region = 0; region < regions_; region += 64) {
    const std::uint64_t n = std::min<std::uint64_t>(64, regions_ - region);
    const std::uint64_t bits = n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
    std::uint64_t& word = storage_->word(region, 1 + leg);
    const std::uint64_t after = stale ? word | bits : word & ~bits;
    const auto page = static_cast<std::uint32_t>(1 + region / log_regions_per_page);
    PageState& state = storage_->pages[page];
    if (after != word) {
      const int more = std::popcount(after) - std::popcount(word);
      counts_[1 + leg] += static_cast<std::uint64_t>(more);
      state.counts[1 + leg] = static_cast<std::uint16_t>(state.counts[1 + leg] + more);
      word = after;
      touch(page);
    }
    ticket = std::max(ticket, state.ticket);
  }
  return ticket;
}

RegionLog::Ticket RegionLog::set_epoch(std::uint64_t epoch) {
  epoch_ = epoch;
  return touch(0);
}

RegionLog::Ticket RegionLog::set_role(unsigned leg, Role role, const Uuid& identity) {
  identity_.roles[leg] = role;
  if (role == Role::absent) held_ &= static_cast<LegMask>(~leg_bit(leg));
  identity_.legs[leg] = identity;
  return touch(0);
}

RegionLog::Ticket RegionLog::set_closed(bool closed) {
  if (closed_ == closed) return storage_->pages[0].ticket;
  closed_ = closed;
  return touch(0);
}

RegionLog::Ticket RegionLog::set_held(unsigned leg, bool held) {
  const LegMask bit = leg_bit(leg);
  if (((held_ & bit) != 0) == held) return storage_->pages[0].ticket;
  held_ ^= bit;
  return touch(0);
}

RegionLog::Ticket RegionLog::rewrite() {
  Ticket ticket = completed_;
  for (std::uint32_t page = 0; page < storage_->pages.size(); ++page)
    ticket = touch(page);
  return ticket;
}

bool RegionLog::dirty(std::uint64_t region) const noexcept {
  return (storage_->word(region, 0) >> (region % 64) & 1) != 0;
}

LegMask RegionLog::stale(std::uint64_t region) const noexcept {
  LegMask mask = 0;
  for (unsigned leg = 0; leg < max_legs; ++leg)
    if (storage_->word(region, 1 + leg) >> (region % 64) & 1) mask |= leg_bit(leg);
  return mask;
}

std::uint64_t RegionLog::next_dirty(std::uint64_t from) const noexcept {
  return counts_[0] == 0 ? regions_ : storage_->next(1, from, regions_);
}

std::uint64_t RegionLog::next_stale(LegMask legs, std::uint64_t from) const noexcept {
  return storage_->next(legs << 1, from, regions_);
}

std::uint64_t RegionLog::stale_on_any(LegMask legs) const noexcept {
  std::uint64_t sum = 0;
  // One step for 64 regions, and one for a page of which nothing is marked.
  for (std::uint64_t r = next_stale(legs, 0); r < regions_;
       r = next_stale(legs, (r / 64 + 1) * 64)) {
    std::uint64_t any = 0;
    for (unsigned leg = 0; leg < max_legs; ++leg)
      if (legs & leg_bit(leg)) any |= storage_->word(r, 1 + leg);
    sum += static_cast<unsigned>(std::popcount(any));
  }
  return sum;
}

void RegionLog::begin_commit() {
  assert(!committing_ && pending());
  committing_ = true;
  ++number_;
  running_.swap(pending_);
  next_running_ = 0;
  for (const std::uint32_t page : running_)
    storage_->pages[page].pending = false;
}

bool RegionLog::next_batch(std::vector<LogWrite>& out) {
  out.clear();
  if (!committing_ || next_running_ == running_.size()) return false;
  const std::size_t n = std::min<std::size_t>(running_.size() - next_running_, log_batch_pages);
  storage_->batch.resize(std::max(storage_->batch.size(), n * log_page_size));
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t page = running_[next_running_++];
    std::byte* bytes = storage_->batch.data() + i * log_page_size;
    encode(page, bytes);
    // The generation that is not the newest: its loss costs nothing.
    const std::uint64_t at = std::uint64_t{page} * log_row_size +
                             (storage_->pages[page].newest ^ 1U) * std::uint64_t{2 * log_page_size};
    for (const std::uint64_t copy : {std::uint64_t{0}, std::uint64_t{log_page_size}})
      out.push_back({at + copy, {bytes, log_page_size}});
  }
  return true;
}

void RegionLog::end_commit(bool ok) {
  assert(committing_);
  if (ok) {
    completed_ = number_;
    for (const std::uint32_t page : running_)
      storage_->pages[page].newest ^= 1U;
  } else {
    // Its changes take part in the next commit, whose higher number covers their tickets.
    for (const std::uint32_t page : running_) {
      PageState& state = storage_->pages[page];
      if (!state.pending) {
        state.pending = true;
        pending_.push_back(page);
      }
    }
  }
  running_.clear();
  committing_ = false;
}

NewestRecord newest_record(std::span<const RecordSeen> seen, unsigned copies) noexcept {
  NewestRecord result;
  for (std::size_t i = 1; i < seen.size(); ++i) {
    const RecordSeen& best = seen[result.index];
    if (seen[i].epoch > best.epoch ||
        (seen[i].epoch == best.epoch && seen[i].sequence > best.sequence))
      result.index = i;
  }
  result.proven = !seen.empty() && seen.size() * 2 > copies;
  return result;
}

}  // namespace blockloom::mirror
