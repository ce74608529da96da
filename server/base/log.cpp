#include "server/base/log.hpp"

#include <atomic>
#include <cstdio>

namespace blockloom {
namespace {

void to_stderr(LogLevel level, std::string_view message) {
  static constexpr const char* names[] = {"debug", "info", "warning", "error"};
  if (level == LogLevel::debug) return;
  std::fprintf(stderr, "blockloom: %s: %.*s\n", names[static_cast<int>(level)],
               static_cast<int>(message.size()), message.data());
}

std::atomic<LogSink> current_sink{to_stderr};

}  // namespace

void set_log_sink(LogSink sink) noexcept {
  current_sink = sink ? sink : to_stderr;
}

void log(LogLevel level, std::string_view message) noexcept {
  current_sink.load()(level, message);
}

}  // namespace blockloom
