#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom::dump {

/// A program to run with few rights: no new privileges, no descriptors but its own three, ends
/// with the server.
struct ChildSpec {
  std::vector<std::string> command;      ///< an absolute path and its arguments
  std::vector<std::string> environment;  ///< "KEY=VALUE", nothing else
  std::string folder = "/";
  Duration timeout = std::chrono::seconds(60);  ///< then it is killed, with its children
  std::uint64_t memory = 0;                     ///< bytes of address space; 0: no bound
  std::uint64_t file_size = 0;                  ///< bytes of a file that it writes; 0: no bound
  bool no_network = false;                      ///< where the kernel lets users have namespaces
};

struct ChildResult {
  int status = 0;      ///< the exit status; 128 + n after signal n
  std::string output;  ///< the first 64 KiB of its standard output and error
};

/// Runs it to its end. Any thread that may wait. Errc::timed_out: it was killed.
Result<ChildResult> run_child(const ChildSpec& spec);

}  // namespace blockloom::dump
