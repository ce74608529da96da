#include <algorithm>
#include <cstring>

#include "server/iscsi/unit_state.hpp"

// How commands end, and what they share.

namespace blockloom {

using scsi::Asc;
using scsi::Sense;
using scsi::SenseKey;
using scsi::Status;

TaskNext end_good(ScsiTask& task) noexcept {
  task.status = Status::good;
  return TaskNext::ended;
}

TaskNext end_status(ScsiTask& task, Status status) noexcept {
  task.status = status;
  task.presented = 0;
  task.data_in_length = 0;
  return TaskNext::ended;
}

TaskNext end_check(UnitState& unit, ScsiTask& task, const Sense& sense) noexcept {
  const auto room = std::span(task.sense).first<scsi::longest_sense>();
  task.sense_length =
      static_cast<std::uint8_t>(scsi::encode_sense(sense, unit.mode().descriptor_sense, room));
  return end_status(task, Status::check_condition);
}

TaskNext end_check(UnitState& unit, ScsiTask& task, SenseKey key, Asc asc) noexcept {
  return end_check(unit, task, Sense{key, asc});
}

TaskNext end_not_ready(UnitState& unit, ScsiTask& task) noexcept {
  return end_check(unit, task, SenseKey::not_ready,
                   unit.ejected.load(std::memory_order_relaxed) ? Asc::no_medium : Asc::not_ready);
}

TaskNext bad_cdb(UnitState& unit, ScsiTask& task, std::uint16_t byte) noexcept {
  return end_check(unit, task, {SenseKey::illegal_request, Asc::invalid_field_in_cdb, {}, byte});
}

TaskNext end_error(UnitState& unit, ScsiTask& task, Errc error, bool reading) noexcept {
  switch (error) {
    case Errc::read_only:
      return end_check(unit, task, SenseKey::data_protect, Asc::write_protected);
    case Errc::no_space:
      return end_check(unit, task, SenseKey::data_protect, Asc::space_allocation_failed);
    case Errc::out_of_range:  // the device shrank
      return end_check(unit, task, SenseKey::illegal_request, Asc::lba_out_of_range);
    case Errc::removed:
      return end_check(unit, task, SenseKey::illegal_request, Asc::unit_not_supported);
    case Errc::limit:
    case Errc::no_memory:
      return end_status(task, Status::task_set_full);
    case Errc::timed_out:
    case Errc::cancelled:
    case Errc::shutdown:
    case Errc::busy:
      return end_status(task, Status::busy);
    case Errc::invalid:
    case Errc::not_supported:
    case Errc::loop:
      return end_check(unit, task, SenseKey::hardware_error, Asc::internal_failure);
    default:
      break;
  }
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  const std::uint64_t lba = task.request.offset.value / unit.options.block_size;
  return end_check(
      unit, task,
      {SenseKey::medium_error, reading ? Asc::unrecovered_read_error : Asc::write_error, lba});
}

TaskNext end_data(UnitState& unit, ScsiTask& task, const scsi::Output& data,
                  std::uint64_t allocation) noexcept {
  task.presented = std::min<std::uint64_t>(data.size(), allocation);
  const auto length =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(task.presented, task.expected_in));
  if (length != 0) {
    task.data = unit.units.buffers().take(length);
    if (!task.data) return end_status(task, Status::task_set_full);
    std::memcpy(task.data.data(), data.data(), length);
  }
  task.data_in_length = length;
  return end_good(task);
}

bool take_scratch(UnitState& unit, ScsiTask& task, std::size_t bytes) noexcept {
  if (!task.scratch || task.scratch.capacity() < bytes)
    task.scratch = unit.units.buffers().take(bytes);
  return static_cast<bool>(task.scratch);
}

TaskNext submit_io(UnitState& unit, ScsiTask& task, Op op, std::uint64_t lba, std::uint64_t blocks,
                   std::byte* data, std::uint8_t flags, ScsiTask::Step then) noexcept {
  Request& request = task.request;
  request.op = op;
  request.flags = flags;
  request.status = Errc::ok;
  request.offset = Bytes(lba * unit.options.block_size);
  request.length = Bytes(blocks * unit.options.block_size);
  request.data = data;
  request.hold = task.holding ? &task.hold : nullptr;
  request.queued_ns = 0;
  task.next = then;
  return TaskNext::io;
}

TaskNext hold_range(UnitState& unit, ScsiTask& task, ScsiTask::Step then) noexcept {
  task.hold.offset = Bytes(task.lba * unit.options.block_size);
  task.hold.length = Bytes(task.blocks * unit.options.block_size);
  task.hold.owner = &task;
  task.hold.granted = [](RangeHold& hold) noexcept {
    resume_task(*static_cast<ScsiTask*>(hold.owner));
  };
  task.holding = true;
  task.next = then;
  return unit.device->hold(task.hold) == Submit::done ? TaskNext::step : TaskNext::wait;
}

bool take_range(UnitState& unit, ScsiTask& task) noexcept {
  const scsi::Range range = scsi::decode_range(task.cdb);
  const std::uint64_t count = unit.block_count();
  task.lba = range.lba;
  task.blocks = range.blocks;
  if (range.lba < count && range.blocks <= count - range.lba) return true;
  if (count == 0) {
    end_not_ready(unit, task);
    return false;
  }
  end_check(unit, task, SenseKey::illegal_request, Asc::lba_out_of_range);
  return false;
}

bool no_protection(UnitState& unit, ScsiTask& task) noexcept {
  if ((task.cdb[1] & 0xe0) == 0) return true;
  bad_cdb(unit, task, 1);
  return false;
}

bool writable(UnitState& unit, ScsiTask& task) noexcept {
  if (!unit.write_protected()) [[likely]]
    return true;
  end_check(unit, task, SenseKey::data_protect, Asc::write_protected);
  return false;
}

std::uint8_t write_flags(const UnitState& unit, const ScsiTask& task) noexcept {
  const bool fua = scsi::cdb_length(task.cdb[0]) != 6 && (task.cdb[1] & 0x08) != 0;
  return fua || !unit.mode().write_cache ? io_flag::fua : std::uint8_t{0};
}

}  // namespace blockloom
