#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

/// iSCSI's protocol data units as bytes (RFC 7143 section 11). Pure.
namespace blockloom::iscsi {

inline constexpr std::size_t bhs_size = 48;
inline constexpr std::size_t digest_size = 4;
/// AHSs of one PDU: TotalAHSLength has eight bits of words.
inline constexpr std::size_t max_ahs_size = 255 * 4;
/// A tag that stands for none (ITT, TTT).
inline constexpr std::uint32_t no_tag = 0xffff'ffff;

enum class Opcode : std::uint8_t {
  nop_out = 0x00,
  scsi_command = 0x01,
  task_management = 0x02,
  login = 0x03,
  text = 0x04,
  data_out = 0x05,
  logout = 0x06,
  snack = 0x10,
  nop_in = 0x20,
  scsi_response = 0x21,
  task_management_response = 0x22,
  login_response = 0x23,
  text_response = 0x24,
  data_in = 0x25,
  logout_response = 0x26,
  r2t = 0x31,
  async_message = 0x32,
  reject = 0x3f,
};

/// 11.17.1
enum class RejectReason : std::uint8_t {
  data_digest = 0x02,
  snack = 0x03,
  protocol_error = 0x04,
  not_supported = 0x05,
  immediate = 0x06,
  task_in_progress = 0x07,
  invalid_field = 0x09,
  long_operation = 0x0a,
  waiting_for_logout = 0x0c,
};

/// 11.5.1
enum class TaskFunction : std::uint8_t {
  abort_task = 1,
  abort_task_set = 2,
  clear_aca = 3,
  clear_task_set = 4,
  logical_unit_reset = 5,
  target_warm_reset = 6,
  target_cold_reset = 7,
  task_reassign = 8,
};

/// 11.6.1
enum class TaskResponse : std::uint8_t {
  complete = 0,
  no_task = 1,
  no_lun = 2,
  still_allegiant = 3,
  no_reassign = 4,
  not_supported = 5,
  not_authorized = 6,
  rejected = 255,
};

/// 11.14.1, 11.15.1
enum class LogoutReason : std::uint8_t { session = 0, connection = 1, recovery = 2 };
enum class LogoutResponse : std::uint8_t { ok = 0, no_cid = 1, no_recovery = 2, failed = 3 };

/// 11.9.1
enum class AsyncEvent : std::uint8_t {
  scsi = 0,
  logout_request = 1,
  drops_connection = 2,
  drops_session = 3,
  negotiate = 4,
};

/// 11.13.5: class and detail.
enum class LoginStatus : std::uint16_t {
  success = 0x0000,
  moved_temporarily = 0x0101,
  moved_permanently = 0x0102,
  initiator_error = 0x0200,
  authentication_failed = 0x0201,
  not_allowed = 0x0202,
  not_found = 0x0203,
  removed = 0x0204,
  unsupported_version = 0x0205,
  too_many_connections = 0x0206,
  missing_parameter = 0x0207,
  not_in_session = 0x0208,
  session_type = 0x0209,
  no_session = 0x020a,
  invalid_request = 0x020b,
  target_error = 0x0300,
  unavailable = 0x0301,
  out_of_resources = 0x0302,
};

/// Byte 1 of several PDUs.
namespace flag {
inline constexpr std::uint8_t final = 0x80;
inline constexpr std::uint8_t read = 0x40;           ///< SCSI command
inline constexpr std::uint8_t write = 0x20;          ///< SCSI command
inline constexpr std::uint8_t more = 0x40;           ///< login, text: C
inline constexpr std::uint8_t bidi_overflow = 0x10;  ///< SCSI response: o
inline constexpr std::uint8_t bidi_underflow = 0x08;
inline constexpr std::uint8_t overflow = 0x04;   ///< SCSI response, Data-In: O
inline constexpr std::uint8_t underflow = 0x02;  ///< U
inline constexpr std::uint8_t status = 0x01;     ///< Data-In: S
}  // namespace flag

/// a < b in serial number arithmetic (RFC 1982), as CmdSN, StatSN and DataSN have it.
constexpr bool serial_less(std::uint32_t a, std::uint32_t b) noexcept {
  return static_cast<std::int32_t>(a - b) < 0;
}

/// What a data segment takes on the wire.
constexpr std::size_t padded(std::size_t length) noexcept {
  return (length + 3) & ~std::size_t{3};
}

/// A basic header segment, with the fields at the places that most PDUs have them.
struct Bhs {
  alignas(8) std::array<std::uint8_t, bhs_size> bytes{};

  std::uint8_t u8(std::size_t at) const noexcept { return bytes[at]; }
  std::uint16_t u16(std::size_t at) const noexcept { return load<std::uint16_t>(at); }
  std::uint32_t u24(std::size_t at) const noexcept { return u32(at - 1) & 0xff'ffff; }
  std::uint32_t u32(std::size_t at) const noexcept { return load<std::uint32_t>(at); }
  std::uint64_t u64(std::size_t at) const noexcept { return load<std::uint64_t>(at); }
  void set8(std::size_t at, std::uint8_t value) noexcept { bytes[at] = value; }
  void set16(std::size_t at, std::uint16_t value) noexcept { store(at, value); }
  void set24(std::size_t at, std::uint32_t value) noexcept {
    store(at - 1, (std::uint32_t{bytes[at - 1]} << 24) | (value & 0xff'ffff));
  }
  void set32(std::size_t at, std::uint32_t value) noexcept { store(at, value); }
  void set64(std::size_t at, std::uint64_t value) noexcept { store(at, value); }

  Opcode opcode() const noexcept { return static_cast<Opcode>(bytes[0] & 0x3f); }
  bool immediate() const noexcept { return (bytes[0] & 0x40) != 0; }
  bool final() const noexcept { return (bytes[1] & flag::final) != 0; }
  std::size_t ahs_length() const noexcept { return std::size_t{bytes[4]} * 4; }
  std::uint32_t data_length() const noexcept { return u24(5); }
  void set_data_length(std::uint32_t length) noexcept { set24(5, length); }
  std::uint64_t lun() const noexcept { return u64(8); }
  std::uint32_t itt() const noexcept { return u32(16); }
  std::uint32_t ttt() const noexcept { return u32(20); }

  // Of initiators.
  std::uint32_t cmd_sn() const noexcept { return u32(24); }
  std::uint32_t exp_stat_sn() const noexcept { return u32(28); }
  std::uint32_t expected_length() const noexcept { return u32(20); }  ///< SCSI command
  std::span<const std::uint8_t, 16> cdb() const noexcept {
    return std::span<const std::uint8_t, bhs_size>(bytes).subspan<32, 16>();
  }
  std::uint32_t data_sn() const noexcept { return u32(36); }        ///< Data-Out
  std::uint32_t buffer_offset() const noexcept { return u32(40); }  ///< Data-Out

 private:
  template <class T>
  T load(std::size_t at) const noexcept {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return swap(value);
  }
  template <class T>
  void store(std::size_t at, T value) noexcept {
    value = swap(value);
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
  static std::uint16_t swap(std::uint16_t v) noexcept { return __builtin_bswap16(v); }
  static std::uint32_t swap(std::uint32_t v) noexcept { return __builtin_bswap32(v); }
  static std::uint64_t swap(std::uint64_t v) noexcept { return __builtin_bswap64(v); }
};
static_assert(sizeof(Bhs) == bhs_size);
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

/// The counters that every PDU of a target carries.
struct Serials {
  std::uint32_t stat_sn = 0;
  std::uint32_t exp_cmd_sn = 0;
  std::uint32_t max_cmd_sn = 0;
};

/// A target's PDU: opcode, F, ITT and the counters; the rest is zero. R2T and Data-In without
/// status carry no StatSN of their own, which is the caller's business.
Bhs make_response(Opcode opcode, std::uint32_t itt, const Serials& serials) noexcept;

/// 11.8
Bhs make_r2t(std::uint64_t lun, std::uint32_t itt, std::uint32_t ttt, const Serials& serials,
             std::uint32_t r2t_sn, std::uint32_t offset, std::uint32_t length) noexcept;
/// 11.7, without status
Bhs make_data_in(std::uint32_t itt, const Serials& serials, std::uint32_t data_sn,
                 std::uint32_t offset, std::uint32_t length) noexcept;
/// 11.17; the rejected header is the data segment.
Bhs make_reject(RejectReason reason, const Serials& serials) noexcept;
/// 11.9
Bhs make_async(AsyncEvent event, const Serials& serials, std::uint16_t parameter1,
               std::uint16_t parameter2, std::uint16_t parameter3) noexcept;

/// What the additional header segments of a SCSI command say (11.2.2.3, 11.2.2.4).
struct Ahs {
  std::span<const std::uint8_t> extended_cdb;  ///< what follows the first 16 bytes
  std::optional<std::uint32_t> bidi_read_length;
};

/// Nothing if they are malformed, of an unknown type, or given twice.
std::optional<Ahs> parse_ahs(std::span<const std::uint8_t> bytes) noexcept;

/// True for an opcode that an initiator may send.
bool is_initiator_opcode(Opcode opcode) noexcept;

}  // namespace blockloom::iscsi
