#include <algorithm>

#include "proto/scsi/report.hpp"
#include "server/iscsi/unit_state.hpp"

// Unit attention conditions: a short list for each path, oldest first (SAM-5 5.14).

namespace blockloom {

using scsi::Asc;

void UnitState::raise_locked(NexusLun& path, Asc why) noexcept {
  if (path.gone) return;
  const auto end = path.attentions.begin() + path.attention_count;
  if (std::find(path.attentions.begin(), end, why) != end) return;
  // One that says "everything may have changed" covers the others; so does a full list.
  const bool covers = why == Asc::power_on || why == Asc::bus_device_reset;
  if (path.attention_count == NexusLun::most_attentions) why = Asc::power_on;
  if (covers || why == Asc::power_on) path.attention_count = 0;
  path.attentions[path.attention_count++] = why;
  if (path.nexus->listener() == nullptr || why == Asc::power_on) return;
  std::array<std::uint8_t, scsi::longest_sense> sense;
  const std::size_t size =
      scsi::encode_sense({scsi::SenseKey::unit_attention, why}, mode().descriptor_sense, sense);
  path.nexus->listener()->unit_attention(scsi::encode_lun(path.lun), std::span(sense).first(size));
}

void UnitState::raise_others_locked(const NexusLun* but, Asc why) noexcept {
  for (NexusLun* path : paths)
    if (path != but) raise_locked(*path, why);
}

Asc UnitState::take_attention_locked(NexusLun& path) noexcept {
  const Asc why = path.attentions[0];
  std::copy(path.attentions.begin() + 1, path.attentions.begin() + path.attention_count,
            path.attentions.begin());
  --path.attention_count;
  return why;
}

void UnitState::drop_attention_locked(NexusLun& path, Asc why) noexcept {
  const auto end = path.attentions.begin() + path.attention_count;
  path.attention_count = static_cast<std::size_t>(std::remove(path.attentions.begin(), end, why) -
                                                  path.attentions.begin());
}

void UnitState::notice_size_locked() noexcept {
  const std::uint64_t size = device->size().value;
  if (size == known_size) return;
  known_size = size;
  raise_others_locked(nullptr, Asc::capacity_changed);
}

}  // namespace blockloom
