#include <algorithm>
#include <cstring>

#include "server/iscsi/unit_state.hpp"

// EXTENDED COPY (LID1) between LUNs that the nexus sees, and RECEIVE COPY RESULTS.

namespace blockloom {

using scsi::Asc;
using scsi::CopySegment;
using scsi::CopyTarget;
using scsi::SenseKey;
using scsi::Status;

namespace {

void remember(UnitState& unit, const ScsiTask& task, bool failed) {
  const TaskExtra& extra = *task.extra;
  if (extra.copy.list_id_usage != 0) return;
  const std::lock_guard lock(unit.mutex);
  CopyOutcome* place = nullptr;
  for (CopyOutcome& copy : unit.copies)
    if (copy.nexus == task.nexus && copy.list_id == extra.copy.list_id) place = &copy;
  if (place == nullptr) place = &unit.copies[unit.next_copy++ % unit.copies.size()];
  *place = {task.nexus, extra.copy.list_id, failed, static_cast<std::uint16_t>(extra.segment),
            extra.copied};
}

TaskNext abort_copy(UnitState& unit, ScsiTask& task, Asc why) {
  remember(unit, task, true);
  return end_check(unit, task, SenseKey::copy_aborted, why);
}

bool designates(const CopyTarget& target, const scsi::Identity& identity) {
  const scsi::Input name = scsi::Input(target.designator).first(target.designator_size);
  if (target.designator_type == 3)
    return std::equal(name.begin(), name.end(), identity.naa.begin(), identity.naa.end());
  if (target.designator_type != 1) return false;
  // The descriptor has room for 20 bytes of the T10 designator.
  const std::string text = std::string(scsi::vendor) + identity.serial;
  return text.size() == name.size() && std::memcmp(text.data(), name.data(), name.size()) == 0;
}

/// The unit that a target of the list names, among those that the nexus sees.
std::shared_ptr<LogicalUnit> find_unit(const ScsiTask& task, const CopyTarget& target) {
  if (target.null_device) return nullptr;
  for (const auto& path : task.nexus->luns())
    if (path->unit != nullptr && designates(target, path->unit->state().identity))
      return path->unit;
  return nullptr;
}

/// A segment in bytes, once it is known to be right.
struct Piece {
  UnitState* from = nullptr;
  UnitState* to = nullptr;
  std::uint64_t source = 0, destination = 0, length = 0;
};

/// Nothing to copy, and why, when the segment cannot be.
std::optional<Piece> piece_of(const TaskExtra& extra, const CopySegment& segment, Asc& why) {
  why = Asc::copy_target_not_reachable;
  if (segment.source >= extra.copy.targets.size() ||
      segment.destination >= extra.copy.targets.size())
    return {};
  const auto& from = extra.copy_units[segment.source];
  const auto& to = extra.copy_units[segment.destination];
  if (from == nullptr || to == nullptr) return {};
  Piece piece{&from->state(), &to->state()};
  const std::uint64_t from_size = piece.from->options.block_size;
  const std::uint64_t to_size = piece.to->options.block_size;
  why = Asc::none;
  piece.length = segment.blocks * (segment.dc ? to_size : from_size);
  if (piece.length % from_size != 0 || piece.length % to_size != 0) return {};
  const auto fits = [](std::uint64_t lba, std::uint64_t blocks, std::uint64_t count) {
    return lba <= count && blocks <= count - lba;
  };
  if (!fits(segment.source_lba, piece.length / from_size, piece.from->block_count()) ||
      !fits(segment.destination_lba, piece.length / to_size, piece.to->block_count()))
    return {};
  piece.source = segment.source_lba * from_size;
  piece.destination = segment.destination_lba * to_size;
  return piece;
}

/// What another unit's reservations and protection say to a copy that goes through this one.
std::optional<TaskNext> forbidden(UnitState& unit, ScsiTask& task, const Piece& piece) {
  for (UnitState* other : {piece.from, piece.to}) {
    const std::lock_guard lock(other->mutex);
    for (const NexusLun* path : other->paths) {
      if (path->nexus != task.nexus) continue;
      const bool reserved = other->reserved_by != nullptr && other->reserved_by != path;
      const bool kept_out = other == piece.to ? path->kept_out.write : path->kept_out.read;
      if (!reserved && !kept_out) continue;
      return end_status(task, Status::reservation_conflict);
    }
  }
  if (piece.to->write_protected())
    return end_check(unit, task, SenseKey::data_protect, Asc::write_protected);
  return {};
}

TaskNext submit_to(ScsiTask& task, UnitState& where, Op op, std::uint64_t offset,
                   std::uint64_t length, ScsiTask::Step then) {
  const std::uint64_t size = where.options.block_size;
  const TaskNext next =
      submit_io(where, task, op, offset / size, length / size, task.scratch.data(), 0, then);
  task.device.store(&*where.device, std::memory_order_relaxed);
  return next;
}

TaskNext copy_next(UnitState& unit, ScsiTask& task);

TaskNext chunk_written(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) {
    remember(unit, task, true);
    return end_error(unit, task, task.request.status, false);
  }
  const std::uint64_t length = task.request.length.value;
  task.position += length;
  task.extra->copied += length;
  task.next = copy_next;
  return task.position % turn_bytes == 0 ? TaskNext::yield : TaskNext::step;
}

TaskNext copy_chunk_read(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) {
    remember(unit, task, true);
    return end_error(unit, task, task.request.status, true);
  }
  TaskExtra& extra = *task.extra;
  Asc why{};
  const auto piece = piece_of(extra, extra.copy.segments[extra.segment], why);
  if (!piece) return abort_copy(unit, task, why);
  return submit_to(task, *piece->to, Op::write, piece->destination + task.position,
                   task.request.length.value, chunk_written);
}

/// task.position: bytes of the segment that are done.
TaskNext copy_next(UnitState& unit, ScsiTask& task) {
  TaskExtra& extra = *task.extra;
  while (extra.segment < extra.copy.segments.size()) {
    Asc why{};
    // Again for each chunk: a unit's size may have changed.
    const auto piece = piece_of(extra, extra.copy.segments[extra.segment], why);
    if (!piece) return abort_copy(unit, task, why);
    if (piece->length > scsi::copy_segment_bytes)
      return end_check(unit, task, SenseKey::illegal_request, Asc::invalid_field_in_parameters);
    if (const auto refused = forbidden(unit, task, *piece)) return *refused;
    if (task.position < piece->length) {
      if (!take_scratch(unit, task, chunk_bytes)) return end_status(task, Status::task_set_full);
      return submit_to(task, *piece->from, Op::read, piece->source + task.position,
                       std::min(chunk_bytes, piece->length - task.position), copy_chunk_read);
    }
    task.position = 0;
    ++extra.segment;
  }
  remember(unit, task, false);
  return end_good(task);
}

TaskNext copy_with_data(UnitState& unit, ScsiTask& task) {
  if (task.presented == 0) return end_good(task);
  task.extra = std::make_unique<TaskExtra>();
  TaskExtra& extra = *task.extra;
  extra.copy = scsi::parse_copy(data_of(task));
  if (extra.copy.sense) return end_check(unit, task, *extra.copy.sense);
  for (std::size_t i = 0; i < extra.copy.targets.size(); ++i)
    extra.copy_units[i] = find_unit(task, extra.copy.targets[i]);
  task.position = 0;
  return copy_next(unit, task);
}

}  // namespace

TaskNext start_extended_copy(UnitState& unit, ScsiTask& task) {
  const std::uint32_t length = scsi::load32(&task.cdb[10]);
  if (length > scsi::copy_list_bytes)
    return end_check(unit, task, SenseKey::illegal_request, Asc::parameter_list_length);
  return want_data(unit, task, length, copy_with_data);
}

TaskNext start_receive_copy_results(UnitState& unit, ScsiTask& task) {
  const std::uint32_t allocation = scsi::load32(&task.cdb[10]);
  if ((task.cdb[1] & 0x1f) == 0x03)
    return end_data(unit, task, scsi::copy_parameters(), allocation);
  CopyOutcome found;
  {
    const std::lock_guard lock(unit.mutex);
    for (const CopyOutcome& copy : unit.copies)
      if (copy.nexus == task.nexus && copy.list_id == task.cdb[2]) found = copy;
  }
  if (found.nexus == nullptr) return bad_cdb(unit, task, 2);
  const scsi::Output data = (task.cdb[1] & 0x1f) == 0x04
                                ? scsi::copy_failure_details()
                                : scsi::copy_status(found.failed, found.segments, found.bytes);
  return end_data(unit, task, data, allocation);
}

}  // namespace blockloom
