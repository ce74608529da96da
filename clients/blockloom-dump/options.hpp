#pragma once

#include <cstdint>

#include "clients/blockloom-dump/tls.hpp"

namespace blockloom::sender {

/// `blockloom-dump send`.
struct SendOptions {
  char server[64] = {};  ///< a numeric address
  char port[8] = "20030";
  const char* image = "/proc/vmcore";  ///< "-": standard input
  const char* dmesg = nullptr;         ///< a file; "-" none; null: looked for
  const char* host = nullptr;          ///< null: the machine's name
  const char* kind = "auto";
  char token[256] = {};
  TlsKeys tls;
  std::uint64_t chunk = 256u << 10;
  std::uint64_t window = 0;       ///< bytes; 0: 64 MiB, for a pipe 8 MiB
  std::int64_t deadline_s = 600;  ///< without any progress
  bool quiet = false;
};

int send_image(SendOptions& options);
int run_receive(int argc, char** argv);
int run_install(int argc, char** argv);

}  // namespace blockloom::sender
