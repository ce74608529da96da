#pragma once

#include <cstdint>
#include <vector>

namespace blockloom::mirror {

inline constexpr std::uint32_t nil = ~0U;

struct Link {
  std::uint32_t prev = nil;
  std::uint32_t next = nil;
};

/// A doubly linked list through the elements of a vector, in order of arrival. An element may be
/// in several lists at once, each through a link of its own.
template <class T, Link T::*member>
class List {
 public:
  std::uint32_t head() const noexcept { return head_; }
  bool empty() const noexcept { return head_ == nil; }

  void push_back(std::vector<T>& all, std::uint32_t i) noexcept {
    Link& link = all[i].*member;
    link.prev = tail_;
    link.next = nil;
    (tail_ == nil ? head_ : (all[tail_].*member).next) = i;
    tail_ = i;
  }
  void erase(std::vector<T>& all, std::uint32_t i) noexcept {
    Link& link = all[i].*member;
    (link.prev == nil ? head_ : (all[link.prev].*member).next) = link.next;
    (link.next == nil ? tail_ : (all[link.next].*member).prev) = link.prev;
    link = Link{};
  }

 private:
  std::uint32_t head_ = nil;
  std::uint32_t tail_ = nil;
};

}  // namespace blockloom::mirror
