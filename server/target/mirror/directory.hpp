#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/target/mirror/spec.hpp"

namespace blockloom::mirror {

class Mirror;

/// The mirrors that live in this process, by what they hold: their log and their legs. Tables find
/// the one that they go on with here, and nothing is held by two. Any thread.
class Directory {
 public:
  static Directory& get();

  /// The mirror that holds the log or a leg of this line; null: none.
  std::shared_ptr<Mirror> find(const MirrorSpec& spec) const;

  /// Writes down what a mirror holds from now on. Errc::busy, naming it, if another one has some
  /// of it.
  Result<void> claim(const std::shared_ptr<Mirror>& mirror, const MirrorSpec& spec);
  void release(const Mirror* mirror) noexcept;

 private:
  struct Entry {
    std::weak_ptr<Mirror> mirror;
    const Mirror* address = nullptr;
    std::vector<std::string> holds;
  };
  static std::vector<std::string> holds_of(const MirrorSpec& spec);

  mutable std::mutex mutex_;  // protects what follows
  std::vector<Entry> entries_;
};

}  // namespace blockloom::mirror
