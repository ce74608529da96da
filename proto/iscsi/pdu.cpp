#include "proto/iscsi/pdu.hpp"

namespace blockloom::iscsi {

Bhs make_response(Opcode opcode, std::uint32_t itt, const Serials& serials) noexcept {
  Bhs header;
  header.set8(0, static_cast<std::uint8_t>(opcode));
  header.set8(1, flag::final);
  header.set32(16, itt);
  header.set32(24, serials.stat_sn);
  header.set32(28, serials.exp_cmd_sn);
  header.set32(32, serials.max_cmd_sn);
  return header;
}

Bhs make_r2t(std::uint64_t lun, std::uint32_t itt, std::uint32_t ttt, const Serials& serials,
             std::uint32_t r2t_sn, std::uint32_t offset, std::uint32_t length) noexcept {
  Bhs header = make_response(Opcode::r2t, itt, serials);
  header.set64(8, lun);
  header.set32(20, ttt);
  header.set32(36, r2t_sn);
  header.set32(40, offset);
  header.set32(44, length);
  return header;
}

Bhs make_data_in(std::uint32_t itt, const Serials& serials, std::uint32_t data_sn,
                 std::uint32_t offset, std::uint32_t length) noexcept {
  Bhs header = make_response(Opcode::data_in, itt, serials);
  header.set8(1, 0);
  header.set_data_length(length);
  header.set32(20, no_tag);
  header.set32(24, 0);  // reserved without status
  header.set32(36, data_sn);
  header.set32(40, offset);
  return header;
}

Bhs make_reject(RejectReason reason, const Serials& serials) noexcept {
  Bhs header = make_response(Opcode::reject, no_tag, serials);
  header.set8(2, static_cast<std::uint8_t>(reason));
  header.set_data_length(bhs_size);
  return header;
}

Bhs make_async(AsyncEvent event, const Serials& serials, std::uint16_t parameter1,
               std::uint16_t parameter2, std::uint16_t parameter3) noexcept {
  Bhs header = make_response(Opcode::async_message, no_tag, serials);
  header.set8(36, static_cast<std::uint8_t>(event));
  header.set16(38, parameter1);
  header.set16(40, parameter2);
  header.set16(42, parameter3);
  return header;
}

std::optional<Ahs> parse_ahs(std::span<const std::uint8_t> bytes) noexcept {
  constexpr std::uint8_t extended_cdb = 1, bidi_length = 2;
  Ahs found;
  while (!bytes.empty()) {
    if (bytes.size() < 4) return std::nullopt;
    // AHSLength counts what follows the type's byte, without padding.
    const std::size_t length = std::size_t{bytes[0]} << 8 | bytes[1];
    const std::size_t whole = padded(length + 3);
    if (length == 0 || whole > bytes.size()) return std::nullopt;
    const auto body = bytes.subspan(4, length - 1);
    switch (bytes[2] & 0x3f) {
      case extended_cdb:
        if (!found.extended_cdb.empty() || body.empty()) return std::nullopt;
        found.extended_cdb = body;
        break;
      case bidi_length:
        if (found.bidi_read_length || body.size() != 4) return std::nullopt;
        found.bidi_read_length = std::uint32_t{body[0]} << 24 | std::uint32_t{body[1]} << 16 |
                                 std::uint32_t{body[2]} << 8 | body[3];
        break;
      default:
        return std::nullopt;
    }
    bytes = bytes.subspan(whole);
  }
  return found;
}

bool is_initiator_opcode(Opcode opcode) noexcept {
  switch (opcode) {
    case Opcode::nop_out:
    case Opcode::scsi_command:
    case Opcode::task_management:
    case Opcode::login:
    case Opcode::text:
    case Opcode::data_out:
    case Opcode::logout:
    case Opcode::snack:
      return true;
    default:
      return false;
  }
}

}  // namespace blockloom::iscsi
