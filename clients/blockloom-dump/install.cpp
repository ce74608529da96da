// blockloom-dump install: hands over to the script that knows the distributions.
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "clients/blockloom-dump/options.hpp"
#include "clients/blockloom-dump/util.hpp"

#ifndef BLOCKLOOM_DUMP_SHARE
#error "the folder of the hooks is set by the build"
#endif

namespace blockloom::sender {

int run_install(int argc, char** argv) {
  static char script[] = BLOCKLOOM_DUMP_SHARE "/install";
  constexpr int words_max = 32;
  // The hooks take this very program along.
  char self[4096] = {};
  if (::readlink("/proc/self/exe", self, sizeof self - 1) > 0)
    ::setenv("BLOCKLOOM_PROGRAM", self, 1);
  char* words[words_max] = {script};
  if (argc >= words_max - 1) return exit_usage;
  for (int i = 0; i < argc; ++i)
    words[i + 1] = argv[i];
  ::execv(script, words);
  say("%s: %s", script, std::strerror(errno));
  return exit_failed;
}

}  // namespace blockloom::sender
