#pragma once

#include <string>
#include <string_view>

#include "server/dump/reception.hpp"

namespace blockloom::dump {

/// Whether all of them are 0.
bool all_zero(ByteView bytes) noexcept;

/// A sender's text without control characters.
std::string clean_text(std::string_view text);

/// Puts into the record what the image itself says: its kind, kernel, machine, time of the crash.
void describe_image(Reception& reception);

/// Why an image that came to its end is not whole all the same; Reason::none: nothing says so.
struct Doubt {
  Reason reason = Reason::none;
  std::string detail;
};
Doubt doubt_image(Reception& reception, std::uint64_t image_end);

}  // namespace blockloom::dump
