// blockloom-dump: sends a crash dump to a Blockloom server. See blockloom-dump(8).
#include <csignal>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "clients/blockloom-dump/options.hpp"
#include "clients/blockloom-dump/util.hpp"

namespace blockloom::sender {
namespace {

constexpr const char* usage =
    "usage: blockloom-dump send --to ADDRESS[:PORT] [OPTIONS] [FILE | -]\n"
    "       blockloom-dump receive --dir FOLDER\n"
    "       blockloom-dump install --to ADDRESS[:PORT] [--token-file FILE]\n"
    "\n"
    "send: FILE is /proc/vmcore by default, - is standard input.\n"
    "  --to ADDRESS[:PORT]   the server, numeric; IPv6 in brackets\n"
    "  --dmesg FILE          the kernel's log, sent first\n"
    "  --host NAME           the machine's name; by default what it calls itself\n"
    "  --kind KIND           auto, elf, kdump or flattened\n"
    "  --token-file FILE     its first line is the secret that the server knows\n"
    "  --tls-psk FILE        TLS: its first line is USER:KEY, a key that the server knows\n"
    "  --tls-certificates FOLDER   TLS: with ca-cert.pem, by which the server is known\n"
    "  --tls-name NAME       what its certificate is for; by default its address\n"
    "  --window BYTES        sent ahead of the server's disk; a pipe keeps that much in memory\n"
    "  --chunk BYTES         a power of two from 4096 to 4194304\n"
    "  --deadline SECONDS    give up after so long without progress; 600\n"
    "  --quiet               no progress\n"
    "receive: a forced command for sshd, for kdump clients that send by ssh.\n"
    "install: kdump-tools, initramfs-tools or dracut are made to use this program.\n"
    "\n"
    "Exit status: 0 the dump is complete there, 1 failed, 2 usage, 3 it is there and incomplete,\n"
    "4 refused, 5 the server could not be reached in time.\n";

bool set_server(const char* text, SendOptions& options) {
  const char* port = nullptr;
  std::size_t size = std::strlen(text);
  if (text[0] == '[') {
    const char* end = std::strchr(text, ']');
    if (end == nullptr || (end[1] != 0 && end[1] != ':')) return false;
    port = end[1] == ':' ? end + 2 : nullptr;
    ++text;
    size = static_cast<std::size_t>(end - text);
  } else if (const char* colon = std::strchr(text, ':')) {
    if (std::strchr(colon + 1, ':') == nullptr) {
      port = colon + 1;
      size = static_cast<std::size_t>(colon - text);
    }
  }
  if (size == 0 || size >= sizeof options.server) return false;
  std::memcpy(options.server, text, size);
  options.server[size] = 0;
  if (port == nullptr) return true;
  if (*port == 0 || std::strlen(port) >= sizeof options.port) return false;
  std::memcpy(options.port, port, std::strlen(port) + 1);
  return true;
}

bool set_number(const char* text, std::uint64_t least, std::uint64_t most, std::uint64_t& value) {
  return parse_number(text, value) && value >= least && value <= most;
}

/// False: not a good value.
bool set_option(const char* name, const char* value, SendOptions& options) {
  const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
  std::uint64_t number = 0;
  if (is("--to")) return set_server(value, options);
  const char** const text = is("--dmesg")              ? &options.dmesg
                            : is("--host")             ? &options.host
                            : is("--kind")             ? &options.kind
                            : is("--tls-psk")          ? &options.tls.psk
                            : is("--tls-certificates") ? &options.tls.certificates
                            : is("--tls-name")         ? &options.tls.name
                                                       : nullptr;
  if (text != nullptr) {
    *text = value;
    return true;
  }
  if (is("--window")) return set_number(value, 1, std::uint64_t{1} << 34, options.window);
  if (is("--chunk"))
    return set_number(value, 4096, 4u << 20, options.chunk) &&
           (options.chunk & (options.chunk - 1)) == 0;
  if (is("--deadline")) {
    if (!set_number(value, 1, 1'000'000, number)) return false;
    options.deadline_s = static_cast<std::int64_t>(number);
    return true;
  }
  if (is("--token-file")) {
    read_line(value, options.token, sizeof options.token);
    if (options.token[0] == 0) say("%s: holds no token", value);
    return options.token[0] != 0;
  }
  say("'%s' is not an option", name);
  return false;
}

int run_send(int argc, char** argv) {
  SendOptions options;
  bool named = false;
  for (int i = 0; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quiet") == 0) {
      options.quiet = true;
    } else if (argv[i][0] == '-' && argv[i][1] == '-') {
      if (i + 1 >= argc || !set_option(argv[i], argv[i + 1], options)) {
        say("%s %s: not as expected; see blockloom-dump --help", argv[i],
            i + 1 < argc ? argv[i + 1] : "");
        return exit_usage;
      }
      ++i;
    } else if (!named) {
      named = true;
      options.image = argv[i];
    } else {
      say("'%s' is one word too many", argv[i]);
      return exit_usage;
    }
  }
  if (options.server[0] == 0) {
    say("--to is missing: the address of the server");
    return exit_usage;
  }
  if (options.tls.psk != nullptr && options.tls.certificates != nullptr) {
    say("--tls-psk and --tls-certificates: one of the two");
    return exit_usage;
  }
  if (options.tls.wanted() && !Tls::built_in) {
    say("this program is built without TLS; blockloom-dump-tls has it");
    return exit_usage;
  }
  return send_image(options);
}

}  // namespace
}  // namespace blockloom::sender

int main(int argc, char** argv) {
  using namespace blockloom::sender;
  std::signal(SIGPIPE, SIG_IGN);
  // A capture kernel may start us with none of the three open.
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0 && fd <= 2;)
    fd = ::open("/dev/null", O_RDWR);
  const char* verb = argc > 1 ? argv[1] : "";
  if (std::strcmp(verb, "send") == 0) return run_send(argc - 2, argv + 2);
  if (std::strcmp(verb, "receive") == 0) return run_receive(argc - 2, argv + 2);
  if (std::strcmp(verb, "install") == 0) return run_install(argc - 2, argv + 2);
  if (std::strcmp(verb, "--version") == 0) {
    std::puts("blockloom-dump " BLOCKLOOM_VERSION);
    return exit_ok;
  }
  const bool asked = std::strcmp(verb, "--help") == 0;
  std::fputs(usage, asked ? stdout : stderr);
  return asked ? exit_ok : exit_usage;
}
