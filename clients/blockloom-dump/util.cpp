#include "clients/blockloom-dump/util.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

namespace blockloom::sender {

void say(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "blockloom-dump: %s\n", line);
}

std::int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

bool find_line(const char* lines, std::size_t size, const char* key, char* value,
               std::size_t value_size) {
  const std::size_t key_size = std::strlen(key);
  for (std::size_t at = 0; at < size;) {
    std::size_t end = at;
    while (end < size && lines[end] != '\n')
      ++end;
    if (end - at > key_size && lines[at + key_size] == '=' &&
        std::memcmp(lines + at, key, key_size) == 0) {
      std::size_t n = end - at - key_size - 1;
      if (n >= value_size) n = value_size - 1;
      std::memcpy(value, lines + at + key_size + 1, n);
      value[n] = 0;
      return true;
    }
    at = end + 1;
  }
  value[0] = 0;
  return false;
}

void read_line(const char* path, char* line, std::size_t size) {
  line[0] = 0;
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const ssize_t n = ::read(fd, line, size - 1);
  ::close(fd);
  line[n > 0 ? n : 0] = 0;
  line[std::strcspn(line, "\n")] = 0;
}

bool parse_number(const char* text, std::uint64_t& value) {
  if (*text == 0) return false;
  value = 0;
  for (; *text != 0; ++text) {
    if (*text < '0' || *text > '9' || value > (UINT64_MAX - 9) / 10) return false;
    value = value * 10 + static_cast<std::uint64_t>(*text - '0');
  }
  return true;
}

}  // namespace blockloom::sender
