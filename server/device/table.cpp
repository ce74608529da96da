#include "server/device/table.hpp"

#include <fmt/format.h>

namespace blockloom {

Table::~Table() = default;

std::string Table::table_text() const {
  std::string text;
  for (const Segment& s : segments_)
    text += fmt::format("{} {} {} {}\n", to_sectors(s.start).value, to_sectors(s.length).value,
                        s.target->type(), s.target->table());
  return text;
}

std::string Table::status_text() const {
  std::string text;
  for (const Segment& s : segments_)
    text += fmt::format("{} {} {} {}\n", to_sectors(s.start).value, to_sectors(s.length).value,
                        s.target->type(), s.target->status());
  return text;
}

void Table::presuspend() noexcept {
  for (Segment& s : segments_)
    s.target->presuspend();
}

void Table::presuspend_undo() noexcept {
  for (Segment& s : segments_)
    s.target->presuspend_undo();
}

void Table::postsuspend() noexcept {
  for (Segment& s : segments_)
    s.target->postsuspend();
}

Result<void> Table::ready() {
  for (const auto& leg : legs_) {
    if (watched_.contains(leg.get())) continue;
    if (auto r = leg->ready(); !r) return r;
  }
  return {};
}

Result<void> Table::preresume() {
  for (Segment& s : segments_)
    if (auto r = s.target->preresume(); !r)
      return Error{r.code(), fmt::format("target '{}' at sector {}: {}", s.target->type(),
                                         to_sectors(s.start).value, r.error().message)};
  return {};
}

void Table::resume() noexcept {
  for (Segment& s : segments_)
    s.target->resume();
}

void Table::release_held(Errc status) noexcept {
  for (Segment& s : segments_)
    s.target->release_held(status);
  for (const auto& leg : legs_)
    leg->release_held(status);
}

std::vector<std::string> Table::late() const {
  std::vector<std::string> names;
  for (const auto& leg : legs_)
    if (const auto n = leg->totals().in_flight; n > 0) {
      // Requests wait in a lower device that is suspended: the likeliest reason.
      const std::string lower = leg->device_name();
      names.push_back(
          fmt::format("leg '{}' ({} request{}{})", leg->uri(), n, n == 1 ? "" : "s",
                      lower.empty() ? "" : fmt::format("; is device '{}' suspended?", lower)));
    }
  for (const Segment& s : segments_)
    if (const auto n = s.target->held(); n > 0)
      names.push_back(fmt::format("target '{}' at sector {} ({} request{})", s.target->type(),
                                  to_sectors(s.start).value, n, n == 1 ? "" : "s"));
  return names;
}

}  // namespace blockloom
