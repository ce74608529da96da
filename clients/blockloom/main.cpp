// blockloom: the command line of a running server.
#include <csignal>
#include <cstdio>
#include <exception>

#include "clients/blockloom/run.hpp"

int main(int argc, char** argv) {
  using namespace blockloom::cli;
  // A reader of our output that goes away ends us by an error of the write, not by a signal that
  // says nothing.
  std::signal(SIGPIPE, SIG_IGN);
  try {
    const Parsed parsed = parse(argc, argv);
    if (parsed.command) return static_cast<int>(run(*parsed.command));
    std::fputs(parsed.text.c_str(), parsed.exit == Exit::ok ? stdout : stderr);
    return static_cast<int>(parsed.exit);
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "blockloom: %s\n", exception.what());
    return static_cast<int>(Exit::failed);
  }
}
