#pragma once

#include <cstddef>
#include <cstdint>

// blockloom-dump runs in a capture kernel's initramfs: one static program, nothing of the C++
// library, no exceptions, memory taken once.

namespace blockloom::sender {

/// How the program ends; part of the interface, in blockloom-dump(8).
enum Exit : int {
  exit_ok = 0,
  exit_failed = 1,  ///< cannot read the image, or a broken setup
  exit_usage = 2,
  exit_incomplete = 3,  ///< the server has it, and calls it incomplete
  exit_refused = 4,     ///< the server does not take it: token, quota
  exit_deadline = 5,    ///< the server could not be reached before the deadline
};

/// Prints to standard error, with "blockloom-dump: " before it.
__attribute__((format(printf, 1, 2))) void say(const char* format, ...);

/// Milliseconds of the monotonic clock.
std::int64_t now_ms();

/// A text of a bounded size that is put together bit by bit; what does not fit is cut.
template <std::size_t N>
class Text {
 public:
  Text() { text_[0] = 0; }
  void add(const char* more) {
    while (*more != 0 && size_ + 1 < N)
      text_[size_++] = *more++;
    text_[size_] = 0;
  }
  void add(std::uint64_t value) {
    char digits[24];
    int at = sizeof digits;
    digits[--at] = 0;
    do {
      digits[--at] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    add(digits + at);
  }
  /// "KEY=VALUE\n", without control characters in the value.
  void line(const char* key, const char* value) {
    add(key);
    add("=");
    for (; *value != 0 && size_ + 2 < N; ++value)
      if (static_cast<unsigned char>(*value) >= ' ' && *value != 0x7f) text_[size_++] = *value;
    text_[size_] = 0;
    add("\n");
  }
  void clear() { text_[size_ = 0] = 0; }
  const char* get() const { return text_; }
  std::size_t size() const { return size_; }

 private:
  char text_[N];
  std::size_t size_ = 0;
};

/// The value of KEY in lines KEY=VALUE; false if it is not there.
bool find_line(const char* lines, std::size_t size, const char* key, char* value,
               std::size_t value_size);

/// The first line of a small file, without its newline; empty if it cannot be read.
void read_line(const char* path, char* line, std::size_t size);

bool parse_number(const char* text, std::uint64_t& value);

}  // namespace blockloom::sender
