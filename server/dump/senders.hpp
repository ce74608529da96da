#pragma once

#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/dump/address.hpp"
#include "server/dump/options.hpp"

namespace blockloom::dump {

/// Who may send, what they must know, and under which name their dumps are kept. Fixed after
/// load(); any thread.
class Senders {
 public:
  explicit Senders(const Options& options) : options_(options) {}

  /// Reads the file of tokens.
  Result<void> load();

  bool allowed(const Address& address) const noexcept;
  std::string host_name(const Address& address) const;
  const std::vector<std::string>& tokens() const noexcept { return tokens_; }

 private:
  const Options& options_;
  std::vector<std::string> tokens_;
};

}  // namespace blockloom::dump
