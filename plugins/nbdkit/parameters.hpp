#pragma once

#include <string>
#include <string_view>

#include "server/base/error.hpp"
#include "server/daemon/engine.hpp"

namespace blockloom::nbd {

/// What stands on nbdkit's command line after the plugin's name, key by key. Files are read and
/// paths made absolute at once, because nbdkit changes directory before it serves.
class Parameters {
 public:
  /// The export of `table=`.
  static constexpr std::string_view table_device = "default";

  /// One key=value. The error names the key and says what was expected.
  Result<void> add(std::string_view key, std::string_view value);

  /// After the last add(): checks that there is something to serve.
  Result<EngineOptions> finish();

 private:
  Result<void> add_table(std::string_view device, std::string_view key, std::string_view text);
  Result<void> add_device(std::string_view value);

  EngineOptions options_;
  bool read_only_ = false;
};

/// The text of `nbdkit blockloom --help`.
extern const char* const parameters_help;

}  // namespace blockloom::nbd
