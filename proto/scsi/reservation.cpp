#include "proto/scsi/reservation.hpp"

#include <algorithm>

#include "proto/text/number.hpp"

namespace blockloom::scsi {
namespace {

constexpr std::size_t longest_name = 223;  // RFC 7143 4.2.7.2
constexpr char digits[] = "0123456789abcdef";

std::optional<std::array<std::uint8_t, 6>> parse_isid(std::string_view hex) {
  if (hex.size() != 12) return {};
  std::array<std::uint8_t, 6> isid{};
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const int digit = hex_digit(hex[i]);
    if (digit < 0) return {};
    isid[i / 2] = static_cast<std::uint8_t>(isid[i / 2] << 4 | digit);
  }
  return isid;
}

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= longest_name &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return (c > 0x20 && c < 0x7f && c != ',') || c < 0; });
}

}  // namespace

std::optional<ReservationType> reservation_type(unsigned code) noexcept {
  switch (code) {
    case 1:
    case 3:
    case 5:
    case 6:
    case 7:
    case 8:
      return static_cast<ReservationType>(code);
    default:
      return {};
  }
}

const char* to_string(ReservationType type) noexcept {
  switch (type) {
    case ReservationType::write_exclusive:
      return "Write Exclusive";
    case ReservationType::exclusive_access:
      return "Exclusive Access";
    case ReservationType::write_exclusive_registrants:
      return "Write Exclusive, Registrants Only";
    case ReservationType::exclusive_access_registrants:
      return "Exclusive Access, Registrants Only";
    case ReservationType::write_exclusive_all:
      return "Write Exclusive, All Registrants";
    case ReservationType::exclusive_access_all:
      return "Exclusive Access, All Registrants";
  }
  return "unknown";
}

std::string to_string(const TransportId& id) {
  std::string text = id.name;
  if (!id.isid) return text;
  text += ",i,0x";
  for (const std::uint8_t byte : *id.isid) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

void append_transport_id(Output& out, const TransportId& id) {
  const std::string name = to_string(id);
  const std::size_t padded = std::max<std::size_t>((name.size() + 4) / 4 * 4, 20);
  append<1>(out, id.isid ? 0x45 : 0x05);
  append<1>(out, 0);
  append<2>(out, padded);
  append_text(out, name);
  out.resize(out.size() + padded - name.size());
}

std::optional<ParsedTransportId> parse_transport_id(Input input) {
  if (input.size() < 24 || (input[0] & 0x3f) != 0x05) return {};
  const unsigned format = input[0] >> 6;
  const std::size_t length = load16(&input[2]);
  if (format > 1 || length < 20 || length % 4 != 0 || length > input.size() - 4) return {};
  const auto* text = reinterpret_cast<const char*>(input.data() + 4);
  std::string_view name(text, length);
  const auto end = name.find('\0');
  if (end == std::string_view::npos) return {};
  name = name.substr(0, end);
  ParsedTransportId parsed;
  parsed.size = 4 + length;
  if (format == 1) {
    const auto at = name.find(",i,0x");
    if (at == std::string_view::npos) return {};
    parsed.id.isid = parse_isid(name.substr(at + 5));
    if (!parsed.id.isid) return {};
    name = name.substr(0, at);
  }
  if (!is_name(name)) return {};
  parsed.id.name = std::string(name);
  return parsed;
}

Parsed<ReserveOutList> parse_reserve_out(Input input, ReserveOut action) {
  Parsed<ReserveOutList> parsed;
  if (input.size() < 24) {
    parsed.sense = bad_parameter_length();
    return parsed;
  }
  ReserveOutList& list = parsed.list;
  list.key = load64(&input[0]);
  list.action_key = load64(&input[8]);
  const bool registers =
      action == ReserveOut::register_key || action == ReserveOut::register_and_ignore;
  list.aptpl = registers && (input[20] & 0x01) != 0;
  list.all_ports = registers && (input[20] & 0x04) != 0;
  const bool others = (input[20] & 0x08) != 0;
  if (!others) {
    if (input.size() != 24) parsed.sense = bad_parameter_length();
    return parsed;
  }
  if (action != ReserveOut::register_key) {
    parsed.sense = bad_parameter(20);
    return parsed;
  }
  if (input.size() < 28 || load32(&input[24]) != input.size() - 28) {
    parsed.sense = bad_parameter_length();
    return parsed;
  }
  for (std::size_t at = 28; at < input.size();) {
    auto id = parse_transport_id(input.subspan(at));
    if (!id) {
      parsed.sense = bad_parameter(at);
      return parsed;
    }
    list.others.push_back(std::move(id->id));
    at += id->size;
  }
  return parsed;
}

Parsed<MoveList> parse_move(Input input) {
  Parsed<MoveList> parsed;
  if (input.size() < 24 || load32(&input[20]) != input.size() - 24) {
    parsed.sense = bad_parameter_length();
    return parsed;
  }
  MoveList& list = parsed.list;
  list.key = load64(&input[0]);
  list.action_key = load64(&input[8]);
  list.unregister = (input[17] & 0x02) != 0;
  list.aptpl = (input[17] & 0x01) != 0;
  list.relative_port = load16(&input[18]);
  auto id = parse_transport_id(input.subspan(24));
  if (!id || id->size != input.size() - 24)
    parsed.sense = bad_parameter(24);
  else
    list.to = std::move(id->id);
  return parsed;
}

Output read_keys(const ReservationRecord& record) {
  Output out;
  append<4>(out, record.generation);
  append<4>(out, 8 * record.registrations.size());
  for (const RegistrationRecord& r : record.registrations)
    append<8>(out, r.key);
  return out;
}

Output read_reservation(const ReservationRecord& record) {
  Output out;
  append<4>(out, record.generation);
  append<4>(out, record.type ? 16 : 0);
  if (!record.type) return out;
  append<8>(out, record.key);
  append<4>(out, 0);
  append<1>(out, 0);
  append<1>(out, static_cast<std::uint8_t>(*record.type));  // scope 0: the logical unit
  append<2>(out, 0);
  return out;
}

Output report_capabilities(bool aptpl_possible, bool aptpl_active) {
  Output out(8);
  store<2>(&out[0], 8);
  out[2] = static_cast<std::uint8_t>(0x08 | 0x04 | (aptpl_possible ? 0x01 : 0));  // SIP_C, ATP_C
  out[3] = static_cast<std::uint8_t>(0x80 | (aptpl_active ? 0x01 : 0));           // TMV, PTPL_A
  out[4] = 0xea;  // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX
  out[5] = 0x01;  // EX_AC_AR
  return out;
}

Output read_full_status(const ReservationRecord& record) {
  Output out;
  append<4>(out, record.generation);
  append<4>(out, 0);
  for (const RegistrationRecord& r : record.registrations) {
    append<8>(out, r.key);
    append<4>(out, 0);
    append<1>(out, (r.all_ports ? 0x02 : 0) | (r.holder ? 0x01 : 0));
    append<1>(out, r.holder && record.type ? static_cast<std::uint8_t>(*record.type) : 0);
    append<4>(out, 0);
    append<2>(out, r.all_ports ? 0 : r.relative_port);
    const std::size_t at = out.size();
    append<4>(out, 0);
    append_transport_id(out, r.initiator);
    store<4>(&out[at], out.size() - at - 4);
  }
  store<4>(&out[4], out.size() - 8);
  return out;
}

}  // namespace blockloom::scsi
