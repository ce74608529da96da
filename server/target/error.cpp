#include "server/target/types.hpp"

namespace blockloom {
namespace {

// error
//
//   Fails all I/O. A flush has nothing to flush here, and passes, as in device-mapper, which sends
//   this target none.

class ErrorTarget final : public Target {
 public:
  std::string_view type() const noexcept override { return "error"; }

  Map map(Io& io) noexcept override {
    io.status = io.op == Op::flush ? Errc::ok : Errc::io;
    return Map::done;
  }
};

}  // namespace

Result<std::unique_ptr<Target>> create_error_target(const TargetArgs& args) {
  if (!args.words.empty()) return wrong_count("error", args.words.size(), "");
  return std::unique_ptr<Target>(new ErrorTarget);
}

}  // namespace blockloom
