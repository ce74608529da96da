// blockloom-dump receive: a forced command for sshd. It understands what unmodified kdump clients
// run (mkdir -p, dd of=, cat >, mv, scp -t), inside one folder, and nothing else.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "clients/blockloom-dump/options.hpp"
#include "clients/blockloom-dump/util.hpp"

namespace blockloom::sender {
namespace {

constexpr int words_max = 24;
constexpr std::size_t command_max = 4096;

struct Receiver {
  int folder = -1;
  std::uint64_t largest = std::uint64_t{1} << 40;
  std::uint64_t keep_free = 0;
};

/// The words of a command as a shell would make them of plain words, quotes and backslashes.
/// Nothing that a shell would expand or run is let through: then there are no words.
struct Words {
  char text[command_max] = {};
  char* word[words_max] = {};
  int count = 0;
  bool good = true;

  explicit Words(const char* command) {
    if (std::strlen(command) >= sizeof text) {
      good = false;
      return;
    }
    char* out = text;
    for (const char* c = command; good && *c != 0;) {
      while (*c == ' ' || *c == '\t')
        ++c;
      if (*c == 0) break;
      if (count == words_max) good = false;
      if (!good) break;
      word[count++] = out;
      // Operators are words of their own, and only these.
      if (std::strncmp(c, "&&", 2) == 0) {
        *out++ = '&';
        *out++ = '&';
        c += 2;
      } else if (*c == '>') {
        *out++ = *c++;
      } else {
        c = take_word(c, out);
      }
      *out++ = 0;
    }
  }

  const char* take_word(const char* c, char*& out) {
    while (*c != 0 && *c != ' ' && *c != '\t' && *c != '>' && *c != '&') {
      if (*c == '\'' || *c == '"') {
        const char quote = *c++;
        while (*c != 0 && *c != quote) {
          if (quote == '"' && (*c == '$' || *c == '`' || *c == '\\')) good = false;
          *out++ = *c++;
        }
        if (*c == 0) good = false;
        if (*c != 0) ++c;
      } else if (*c == '\\' && c[1] != 0) {
        *out++ = c[1];
        c += 2;
      } else {
        if (std::strchr("$`;|<(){}*?[]!#~\n\r", *c) != nullptr) good = false;
        *out++ = *c++;
      }
    }
    if (*c == '&' && c[1] != '&') good = false;
    return c;
  }

  bool is(int index, const char* text_wanted) const {
    return index < count && std::strcmp(word[index], text_wanted) == 0;
  }
};

/// Opens the folder that a path's last part lies in, one part at a time, through no link and never
/// above the receiver's folder; `make`: parts that are not there are made. -1: refused.
int walk(const Receiver& receiver, const char* path, bool make, const char** last) {
  int at = ::fcntl(receiver.folder, F_DUPFD_CLOEXEC, 3);
  static char part[256];
  while (*path == '/')
    ++path;
  for (;;) {
    const char* slash = std::strchr(path, '/');
    const std::size_t size =
        slash != nullptr ? static_cast<std::size_t>(slash - path) : std::strlen(path);
    if (size >= sizeof part) break;
    std::memcpy(part, path, size);
    part[size] = 0;
    if (size == 0 || std::strcmp(part, ".") == 0) {
      if (slash == nullptr) break;
      path = slash + 1;
      continue;
    }
    // A hidden name would hide it from whoever looks, and ".." leads out.
    if (part[0] == '.') break;
    if (slash == nullptr || slash[std::strspn(slash, "/")] == 0) {
      *last = part;
      return at;
    }
    if (make) ::mkdirat(at, part, 0700);
    const int next = ::openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    ::close(at);
    if (next < 0) {
      say("%s: %s", part, std::strerror(errno));
      return -1;
    }
    at = next;
    path = slash + 1;
  }
  ::close(at);
  say("a path that is not taken");
  return -1;
}

int make_folder(const Receiver& receiver, const char* path) {
  const char* last = nullptr;
  const int at = walk(receiver, path, true, &last);
  if (at < 0) return exit_failed;
  const bool made = ::mkdirat(at, last, 0700) == 0 || errno == EEXIST;
  if (!made) say("%s: %s", last, std::strerror(errno));
  ::close(at);
  return made ? exit_ok : exit_failed;
}

bool room_for(const Receiver& receiver, std::uint64_t more) {
  struct statvfs info {};
  if (receiver.keep_free == 0 || ::fstatvfs(receiver.folder, &info) != 0) return true;
  return std::uint64_t{info.f_bavail} * info.f_frsize >= receiver.keep_free + more;
}

/// Standard input into a new file, up to its end or `size` bytes; durable when it is said to be
/// there.
int store(const Receiver& receiver, const char* path, std::uint64_t size, bool whole_input) {
  const char* last = nullptr;
  const int at = walk(receiver, path, false, &last);
  if (at < 0) return exit_failed;
  const int fd = ::openat(at, last, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) say("%s: %s", last, std::strerror(errno));
  static char buffer[1u << 18];
  std::uint64_t total = 0;
  bool good = fd >= 0;
  while (good && (whole_input || total < size)) {
    std::size_t wanted = sizeof buffer;
    if (!whole_input && size - total < wanted) wanted = static_cast<std::size_t>(size - total);
    const ssize_t n = ::read(0, buffer, wanted);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 && whole_input) break;
    good = n > 0 && total + static_cast<std::uint64_t>(n) <= receiver.largest &&
           room_for(receiver, static_cast<std::uint64_t>(n));
    for (ssize_t done = 0; good && done < n;) {
      const ssize_t w = ::write(fd, buffer + done, static_cast<std::size_t>(n - done));
      if (w < 0 && errno == EINTR) continue;
      good = w > 0;
      if (good) done += w;
    }
    if (good) total += static_cast<std::uint64_t>(n);
  }
  if (fd >= 0 && !good) say("%s: not stored to its end: no space, or the connection broke", last);
  good = good && ::fsync(fd) == 0 && ::fsync(at) == 0;
  if (fd >= 0) ::close(fd);
  ::close(at);
  return good ? exit_ok : exit_failed;
}

int rename_file(const Receiver& receiver, const char* from, const char* to) {
  const char* last = nullptr;
  const int from_at = walk(receiver, from, false, &last);
  if (from_at < 0) return exit_failed;
  char from_name[256];
  std::snprintf(from_name, sizeof from_name, "%s", last);
  const int to_at = walk(receiver, to, false, &last);
  bool good = to_at >= 0;
  if (good) {
    good = ::renameat(from_at, from_name, to_at, last) == 0 && ::fsync(to_at) == 0;
    if (!good) say("%s: %s", from_name, std::strerror(errno));
    ::close(to_at);
  }
  ::close(from_at);
  return good ? exit_ok : exit_failed;
}

bool answer(char code) {
  return ::write(1, &code, 1) == 1;
}

/// `scp -t PATH`, the old protocol that `scp -O` and old clients speak: "C0644 SIZE NAME", the
/// bytes, a zero; no folders.
int scp_sink(const Receiver& receiver, const char* path) {
  if (!answer(0)) return exit_failed;
  for (;;) {
    char line[512];
    std::size_t size = 0;
    while (size + 1 < sizeof line && ::read(0, line + size, 1) == 1 && line[size] != '\n')
      ++size;
    line[size] = 0;
    if (size == 0) return exit_ok;
    if (line[0] == 'T') {  // times
      if (!answer(0)) return exit_failed;
      continue;
    }
    char* space = std::strchr(line, ' ');
    char* name = space != nullptr ? std::strchr(space + 1, ' ') : nullptr;
    std::uint64_t length = 0;
    if (name != nullptr) *name++ = 0;
    if (line[0] != 'C' || name == nullptr || !parse_number(space + 1, length) ||
        std::strchr(name, '/') != nullptr) {
      say("scp: a line that is not taken");
      answer(2);
      return exit_failed;
    }
    // Into the folder, or under the name that was given.
    char place[command_max + 600];
    const char* last = nullptr;
    struct stat info {};
    const int at = walk(receiver, path, false, &last);
    if (at < 0) return exit_failed;
    const bool folder =
        ::fstatat(at, last, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode);
    ::close(at);
    std::snprintf(place, sizeof place, folder ? "%s/%s" : "%s", path, name);
    if (!answer(0)) return exit_failed;
    if (const int stored = store(receiver, place, length, false); stored != exit_ok) return stored;
    char end = 1;
    if (::read(0, &end, 1) != 1 || end != 0 || !answer(0)) return exit_failed;
  }
}

/// Runs one of the commands that kdump clients send.
int obey(const Receiver& receiver, const Words& w) {
  int first = 0;
  // "umask 0077 &&" before it changes nothing: what is made here is always private.
  if (w.is(0, "umask") && w.is(2, "&&")) first = 3;
  if (w.is(first, "umask") || first >= w.count) return exit_usage;
  const int left = w.count - first;
  char* const* word = w.word + first;
  if (w.is(first, "mkdir") && w.is(first + 1, "-p") && left >= 3) {
    // SUSE's "mkdir -p D && cat > D/file".
    const bool cat =
        left == 7 && w.is(first + 3, "&&") && w.is(first + 4, "cat") && w.is(first + 5, ">");
    if (left != 3 && !cat) return exit_usage;
    const int made = make_folder(receiver, word[2]);
    return made == exit_ok && cat ? store(receiver, word[6], 0, true) : made;
  }
  if (w.is(first, "cat") && w.is(first + 1, ">") && left == 3)
    return store(receiver, word[2], 0, true);
  if (w.is(first, "dd")) {
    const char* path = nullptr;
    for (int i = 1; i < left; ++i) {
      if (std::strncmp(word[i], "of=", 3) == 0)
        path = word[i] + 3;
      else if (std::strncmp(word[i], "bs=", 3) != 0 && std::strncmp(word[i], "conv=", 5) != 0)
        return exit_usage;
    }
    return path != nullptr ? store(receiver, path, 0, true) : exit_usage;
  }
  if (w.is(first, "mv") && left == 3) return rename_file(receiver, word[1], word[2]);
  if (w.is(first, "scp")) {
    int at = 1;
    bool sink = false;
    for (; at < left && word[at][0] == '-'; ++at)
      sink = sink || std::strcmp(word[at], "-t") == 0;
    if (sink && at + 1 == left) return scp_sink(receiver, word[at]);
  }
  return exit_usage;
}

}  // namespace

int run_receive(int argc, char** argv) {
  Receiver receiver;
  const char* folder = nullptr;
  for (int i = 0; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--dir") == 0)
      folder = argv[i + 1];
    else if (std::strcmp(argv[i], "--largest") != 0 && std::strcmp(argv[i], "--keep-free") != 0)
      folder = nullptr;
    else if (!parse_number(argv[i + 1], argv[i][2] == 'l' ? receiver.largest : receiver.keep_free))
      folder = nullptr;
  }
  if (folder == nullptr || argc % 2 != 0) {
    say("receive: --dir FOLDER [--largest BYTES] [--keep-free BYTES] is expected");
    return exit_usage;
  }
  const char* command = std::getenv("SSH_ORIGINAL_COMMAND");
  receiver.folder = ::open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (receiver.folder < 0) {
    say("%s: %s", folder, std::strerror(errno));
    return exit_failed;
  }
  ::umask(0077);
  const Words words(command != nullptr ? command : "");
  const int exit =
      words.good && words.count > 0 ? obey(receiver, words) : static_cast<int>(exit_usage);
  if (exit == exit_usage)
    say("only what kdump sends is taken here: mkdir -p, dd of=, cat >, mv, scp -t");
  return exit;
}

}  // namespace blockloom::sender
