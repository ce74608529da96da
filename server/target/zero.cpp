#include <cstring>

#include "server/target/types.hpp"

namespace blockloom {
namespace {

// zero
//
//   Reads as zeroes; what is written is dropped.

class ZeroTarget final : public Target {
 public:
  std::string_view type() const noexcept override { return "zero"; }

  Map map(Io& io) noexcept override {
    if (io.op == Op::read) std::memset(io.data, 0, io.length.value);
    if (io.op == Op::extents) io.extents->add({io.length, /*hole=*/true, /*zero=*/true});
    io.status = Errc::ok;
    return Map::done;
  }
};

}  // namespace

Result<std::unique_ptr<Target>> create_zero_target(const TargetArgs& args) {
  if (!args.words.empty()) return wrong_count("zero", args.words.size(), "");
  return std::unique_ptr<Target>(new ZeroTarget);
}

}  // namespace blockloom
