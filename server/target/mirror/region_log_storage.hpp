#pragma once

#include <array>
#include <bit>
#include <cstdlib>
#include <memory>
#include <vector>

#include "server/target/mirror/region_log.hpp"

/// What RegionLog's two sources share: its memory, and the shape of the medium.
namespace blockloom::mirror {

inline constexpr char log_page_magic[8] = {'b', 'l', 'k', 'l', 'm', 'l', 'o', 'g'};
inline constexpr std::uint64_t log_row_size = std::uint64_t{4} * log_page_size;
inline constexpr std::size_t log_batch_pages = 64;
inline constexpr unsigned log_planes = 1 + max_legs;  ///< dirty, and stale of each leg
inline constexpr unsigned log_groups_per_page = log_regions_per_page / 64;
inline constexpr std::uint32_t log_head_size = 64;
static_assert(log_regions_per_page % 64 == 0);
static_assert(log_head_size + log_groups_per_page * log_planes * 8 <= log_page_size);

struct PageState {
  RegionLog::Ticket ticket = 0;  ///< of its newest change
  std::array<std::uint16_t, log_planes> counts{};
  std::uint8_t newest = 0;  ///< the generation on the medium that counts
  bool pending = false;
};

/// The bits lie as in the pages: 64 regions are ten words, one a plane. The memory of regions that
/// were never marked is the kernel's zero page.
struct RegionLog::Storage {
  struct Free {
    void operator()(std::uint64_t* p) const noexcept { std::free(p); }
  };

  explicit Storage(std::uint32_t page_count) : pages(page_count) {
    const std::size_t words = std::size_t{page_count - 1} * log_groups_per_page * log_planes;
    bits.reset(static_cast<std::uint64_t*>(std::calloc(words, sizeof(std::uint64_t))));
  }

  std::uint64_t& word(std::uint64_t region, unsigned plane) const noexcept {
    return bits[region / 64 * log_planes + plane];
  }
  std::uint64_t* page_words(std::uint32_t page) const noexcept {
    return bits.get() + std::size_t{page - 1} * log_groups_per_page * log_planes;
  }

  /// The first region ≥ from with a bit in one of the planes.
  std::uint64_t next(unsigned planes, std::uint64_t from, std::uint64_t regions) const noexcept {
    std::uint64_t region = from;
    while (region < regions) {
      const PageState& page = pages[1 + region / log_regions_per_page];
      std::uint64_t any = 0;
      for (unsigned rest = planes; rest != 0; rest &= rest - 1)
        any |= page.counts[static_cast<unsigned>(std::countr_zero(rest))];
      if (any == 0) {
        region = (region / log_regions_per_page + 1) * log_regions_per_page;
        continue;
      }
      std::uint64_t found = 0;
      for (unsigned rest = planes; rest != 0; rest &= rest - 1)
        found |= word(region, static_cast<unsigned>(std::countr_zero(rest)));
      found &= ~std::uint64_t{0} << (region % 64);
      if (found != 0) {
        region = region / 64 * 64 + static_cast<unsigned>(std::countr_zero(found));
        return region < regions ? region : regions;
      }
      region = (region / 64 + 1) * 64;
    }
    return regions;
  }

  std::vector<PageState> pages;
  std::unique_ptr<std::uint64_t[], Free> bits;
  std::vector<std::byte> batch;
};

}  // namespace blockloom::mirror
