#include "clients/blockloom-dump/hello.hpp"

#include <cstdio>
#include <cstring>

#include <sys/utsname.h>

#include "proto/dump/sha256.hpp"

namespace blockloom::sender {

void write_hello(Text<dump::wire::text_max>& hello, const SendOptions& options, const char* session,
                 const char* nonce, const Source& source) {
  utsname machine{};
  ::uname(&machine);
  char name[65] = {};
  std::snprintf(name, sizeof name, "%s", options.host != nullptr ? options.host : machine.nodename);
  // As names go into paths: letters, digits, '.', '-', '_'.
  for (char* c = name; *c != 0; ++c) {
    const bool good = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                      (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' ||
                      (*c == '.' && c != name);
    if (!good) *c = '_';
  }
  char boot[64], number[24];
  read_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
  hello.line("version", "1");
  hello.line("host", name[0] != 0 ? name : "unknown");
  hello.line("session", session);
  hello.line("release", machine.release);
  hello.line("machine", machine.machine);
  hello.line("boot_id", boot);
  hello.line("kind", options.kind);
  std::snprintf(number, sizeof number, "%llu", static_cast<unsigned long long>(options.chunk));
  hello.line("chunk", number);
  std::snprintf(number, sizeof number, "%llu", static_cast<unsigned long long>(source.window()));
  hello.line("window", number);
  std::snprintf(number, sizeof number, "%llu", static_cast<unsigned long long>(source.size()));
  hello.line("size", number);
  if (options.token[0] != 0) {
    Text<512> text;
    text.add(nonce);
    text.add("\n");
    text.add(session);
    text.add("\n");
    text.add(name[0] != 0 ? name : "unknown");
    unsigned char digest[dump::Sha256::size];
    dump::hmac_sha256(options.token, std::strlen(options.token), text.get(), text.size(), digest);
    char hex[2 * dump::Sha256::size + 1];
    dump::to_hex(digest, sizeof digest, hex);
    hello.line("proof", hex);
  }
}

}  // namespace blockloom::sender
