#pragma once

#include <functional>
#include <memory>

#include "server/dump/back_end.hpp"
#include "server/leg/leg.hpp"

namespace blockloom::dump {

/// A finished image as a read-only leg: its bytes, and zeros up to a whole sector. `open` gives a
/// reader of it; several reads at once have one each.
std::shared_ptr<Leg> make_image_leg(std::string name, std::uint64_t length,
                                    std::function<Result<std::unique_ptr<ImageReader>>()> open);

}  // namespace blockloom::dump
