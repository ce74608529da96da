#include "proto/scsi/sense.hpp"

#include <algorithm>

#include "proto/scsi/bytes.hpp"

namespace blockloom::scsi {
namespace {

bool has_key_specific(const Sense& sense) noexcept {
  return sense.field.has_value() || sense.progress.has_value();
}

void encode_key_specific(const Sense& sense, std::uint8_t* out) noexcept {
  if (!sense.field) {
    out[0] = 0x80;
    store<2>(out + 1, *sense.progress);
    return;
  }
  out[0] = static_cast<std::uint8_t>(0x80 | (sense.field_in_cdb ? 0x40 : 0));
  store<2>(out + 1, *sense.field);
}

std::size_t encode_fixed(const Sense& sense, std::uint8_t* out) noexcept {
  out[0] = 0x70;
  out[2] = static_cast<std::uint8_t>(sense.key);
  if (sense.information && *sense.information <= UINT32_MAX) {
    out[0] |= 0x80;
    store<4>(out + 3, *sense.information);
  }
  out[7] = 10;
  store<2>(out + 12, static_cast<std::uint16_t>(sense.asc));
  if (has_key_specific(sense)) encode_key_specific(sense, out + 15);
  return 18;
}

std::size_t encode_descriptors(const Sense& sense, std::uint8_t* out) noexcept {
  out[0] = 0x72;
  out[1] = static_cast<std::uint8_t>(sense.key);
  store<2>(out + 2, static_cast<std::uint16_t>(sense.asc));
  std::size_t size = 8;
  if (sense.information) {
    out[size + 1] = 10;
    out[size + 2] = 0x80;
    store<8>(out + size + 4, *sense.information);
    size += 12;
  }
  if (has_key_specific(sense)) {
    out[size] = 2;
    out[size + 1] = 6;
    encode_key_specific(sense, out + size + 4);
    size += 8;
  }
  out[7] = static_cast<std::uint8_t>(size - 8);
  return size;
}

}  // namespace

std::size_t encode_sense(const Sense& sense, bool descriptor,
                         std::span<std::uint8_t, longest_sense> out) noexcept {
  std::fill(out.begin(), out.end(), std::uint8_t{0});
  return descriptor ? encode_descriptors(sense, out.data()) : encode_fixed(sense, out.data());
}

}  // namespace blockloom::scsi
