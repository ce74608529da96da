#pragma once

#include <cstdint>
#include <initializer_list>

#include "tests/unit/iscsi/initiator.hpp"

/// What tests of reservations say to a unit.
namespace blockloom::reserving {

inline const Octets read_1{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0};
inline const Octets write_1{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0};
inline const Octets ready{0, 0, 0, 0, 0, 0};
inline constexpr auto conflict = scsi::Status::reservation_conflict;

enum : std::uint8_t { reg, reserve, release, clear, preempt, preempt_abort, reg_ignore, reg_move };

inline Answer out(Initiator& from, std::uint8_t action, std::uint64_t key, std::uint64_t action_key,
                  std::uint8_t type = 0, std::uint8_t flags = 0) {
  scsi::Output list;
  scsi::append<8>(list, key);
  scsi::append<8>(list, action_key);
  list.resize(24);
  list[20] = flags;
  return from.run({0x5f, action, type, 0, 0, 0, 0, 0, 24, 0}, list);
}

inline Octets in(Initiator& from, std::uint8_t action) {
  return from.read({0x5e, action, 0, 0, 0, 0, 0, 16, 0, 0}, 4096).data;
}

inline Octets keys(std::uint32_t generation, std::initializer_list<std::uint64_t> list) {
  scsi::Output data;
  scsi::append<4>(data, generation);
  scsi::append<4>(data, 8 * list.size());
  for (const std::uint64_t key : list)
    scsi::append<8>(data, key);
  return data;
}

inline Octets reservation(std::uint32_t generation, std::uint64_t key, std::uint8_t type) {
  scsi::Output data;
  scsi::append<4>(data, generation);
  scsi::append<4>(data, 16);
  scsi::append<8>(data, key);
  data.resize(24);
  data[21] = type;
  return data;
}

/// Two sessions without unit attentions.
struct Two : Bench {
  Initiator a{target, executor, "a"}, b{target, executor, "b"}, c{target, executor, "c"};
  Two() {
    a.settle();
    b.settle();
    c.settle();
  }
};

}  // namespace blockloom::reserving
