#include <algorithm>

#include "proto/scsi/report.hpp"
#include "server/iscsi/unit_state.hpp"

// READ CAPACITY, GET LBA STATUS, READ DEFECT DATA.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

TaskNext start_read_capacity_10(UnitState& unit, ScsiTask& task) {
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  return end_data(unit, task, scsi::read_capacity_10(unit.block_count(), unit.options.block_size),
                  8);
}

TaskNext start_read_capacity_16(UnitState& unit, ScsiTask& task) {
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  return end_data(unit, task, scsi::read_capacity_16(unit.description(task), unit.block_count()),
                  scsi::load32(&task.cdb[10]));
}

// There is nothing that could go bad: the list is empty, in whatever format.
TaskNext start_read_defect_data(UnitState& unit, ScsiTask& task) {
  const bool ten = task.cdb[0] == 0x37;
  scsi::Output data(ten ? 4 : 8);
  data[1] = task.cdb[ten ? 2 : 1] & 0x1f;
  return end_data(unit, task, data, ten ? scsi::load16(&task.cdb[7]) : scsi::load32(&task.cdb[6]));
}

namespace {

/// Extents in blocks: one of which a part holds data is mapped.
std::vector<scsi::LbaStatus> statuses_of(const Extents& extents, std::uint64_t lba,
                                         std::uint64_t size, std::size_t most) {
  std::vector<scsi::LbaStatus> list;
  const std::uint64_t start = lba * size;
  std::uint64_t at = start, next = lba;
  const auto add = [&](std::uint64_t upto, bool mapped) {
    while (next < upto) {
      if (!list.empty() && list.back().mapped == mapped && list.back().blocks != UINT32_MAX) {
        const auto more = std::min<std::uint64_t>(upto - next, UINT32_MAX - list.back().blocks);
        list.back().blocks += static_cast<std::uint32_t>(more);
        next += more;
      } else if (list.size() == most) {
        return;
      } else {
        const auto count =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(upto - next, UINT32_MAX));
        list.push_back({next, count, mapped});
        next += count;
      }
    }
  };
  for (const Extent& extent : extents.list()) {
    const std::uint64_t end = at + extent.length.value;
    if (extent.hole) {
      add((at + size - 1) / size, true);
      add(end / size, false);
    } else {
      add((end + size - 1) / size, true);
    }
    at = end;
  }
  return list;
}

TaskNext extents_known(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, true);
  const std::uint32_t allocation = scsi::load32(&task.cdb[10]);
  const std::size_t most = std::clamp<std::size_t>(allocation / 16, 1, 1024);
  auto list = statuses_of(task.extra->extents, task.lba, unit.options.block_size, most);
  // A hole that ends inside the first block.
  if (list.empty()) list.push_back({task.lba, 1, true});
  return end_data(unit, task, scsi::lba_statuses(list), allocation);
}

}  // namespace

TaskNext start_get_lba_status(UnitState& unit, ScsiTask& task) {
  const std::uint64_t count = unit.block_count();
  if (count == 0) return end_not_ready(unit, task);
  task.lba = scsi::load64(&task.cdb[2]);
  if (task.lba >= count)
    return end_check(unit, task, SenseKey::illegal_request, Asc::lba_out_of_range);
  task.extra = std::make_unique<TaskExtra>();
  task.request.extents = &task.extra->extents;
  const std::uint64_t blocks = std::min<std::uint64_t>(count - task.lba, UINT32_MAX);
  return submit_io(unit, task, Op::extents, task.lba, blocks, nullptr, 0, extents_known);
}

}  // namespace blockloom
