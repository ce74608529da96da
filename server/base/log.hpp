#pragma once

#include <string>
#include <string_view>

namespace blockloom {

enum class LogLevel { debug, info, warning, error };

/// Where messages go; the process's frontend sets it once, before threads start. The default
/// writes "blockloom: LEVEL: MESSAGE" to standard error, without debug messages.
using LogSink = void (*)(LogLevel level, std::string_view message);
void set_log_sink(LogSink sink) noexcept;

/// Any thread. Not for the hot path.
void log(LogLevel level, std::string_view message) noexcept;

inline void log_info(std::string_view message) noexcept {
  log(LogLevel::info, message);
}
inline void log_warning(std::string_view message) noexcept {
  log(LogLevel::warning, message);
}
inline void log_error(std::string_view message) noexcept {
  log(LogLevel::error, message);
}

}  // namespace blockloom
