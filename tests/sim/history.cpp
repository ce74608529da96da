#include "tests/sim/history.hpp"

#include <algorithm>

namespace blockloom::sim {

void BlockHistory::write_ends(Value value, Time now, bool ok) {
  Time begin = 0;
  for (Entry& e : entries_) {
    if (e.value != value) continue;
    e.end = now;
    begin = e.begin;
    ok = ok && !e.shaky;
  }
  if (!ok) return;
  for (Entry& e : entries_)
    if (e.value != value && e.end < begin) kill(e, now);
  std::erase_if(entries_, [](const Entry& e) { return e.gone; });
}

bool BlockHistory::read_ends(Value value, Time begin, Time now) {
  bool legal = false;
  for (const Entry& e : entries_)
    if (e.value == value && e.begin <= now && e.dead >= begin && !e.gone) legal = true;
  if (!legal) return false;
  if (begin < loss_) return true;  // it may have been read before that
  for (Entry& e : entries_)
    if (e.value != value && e.end < begin) kill(e, now);
  return true;
}

void BlockHistory::flushed(Time begin) {
  for (Entry& e : entries_)
    if (e.dead < begin) e.gone = true;
}

void BlockHistory::lossy(Time now) {
  loss_ = now;
  for (Entry& e : entries_) {
    if (!e.gone) e.dead = never;
    e.shaky = e.end == never;
  }
}

bool BlockHistory::may_hold(Value value) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& e) { return e.value == value && e.dead == never; });
}

}  // namespace blockloom::sim
