#include "server/iscsi/logical_unit.hpp"

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/iscsi/reservation_file.hpp"
#include "server/iscsi/unit_state.hpp"

namespace blockloom {
namespace {

std::string identity_text(const UnitOptions& options, const Device& device) {
  if (!options.serial.empty()) return options.serial;
  const std::string uuid = device.uuid();
  return uuid.empty() ? device.name() : uuid;
}

}  // namespace

UnitState::UnitState(LogicalUnits& owner, UnitOptions unit_options, DeviceHandle handle)
    : units(owner),
      options(std::move(unit_options)),
      device(std::move(handle)),
      identity(scsi::identity_of(identity_text(options, *device))),
      known_size(device->size().value) {}

LogicalUnit::LogicalUnit(std::unique_ptr<UnitState> state) : state_(std::move(state)) {}
LogicalUnit::~LogicalUnit() = default;

const UnitOptions& LogicalUnit::options() const noexcept {
  return state_->options;
}

UnitInfo LogicalUnit::info() const {
  UnitInfo info;
  info.options = state_->options;
  info.identifier = scsi::naa_text(state_->identity);
  info.blocks = state_->block_count();
  const std::lock_guard lock(state_->mutex);
  info.tasks = state_->tasks;
  const Reservations& reservations = state_->reservations;
  const scsi::ReservationRecord record = reservations.record();
  info.generation = record.generation;
  info.aptpl = reservations.aptpl();
  if (record.type) info.reservation = scsi::to_string(*record.type);
  if (const NexusLun* holder = state_->reserved_by; holder != nullptr) {
    info.reservation = "reserve";
    info.reserve_holder = scsi::to_string(holder->nexus->ports().initiator);
  }
  for (const auto& r : reservations.registrations())
    info.registrations.push_back({scsi::to_string(r.ports.initiator),
                                  fmt::format("{},t,0x{:04x}", r.ports.target, r.ports.port), r.key,
                                  reservations.is_holder(r)});
  return info;
}

// --- All of them --------------------------------------------------------------------------------

LogicalUnits::LogicalUnits(Registry& registry, Options options)
    : registry_(registry), options_(std::move(options)), buffers_(options_.buffer_bytes) {
  listener_ = registry_.events().listen([this](const Event& event) {
    if (event.kind == "resized") notice_size(event.device);
  });
}

LogicalUnits::~LogicalUnits() {
  registry_.events().unlisten(listener_);
  worker_.stop();
}

// Initiators that are idle hear of a new size as well: by an async message, if the transport sends
// one. Not on the event's thread, which is in the middle of a swap.
void LogicalUnits::notice_size(const std::string& device) noexcept {
  try {
    worker_.schedule(Clock::now(), [this, device](Errc status) {
      if (status != Errc::ok) return;
      std::shared_ptr<LogicalUnit> unit;
      {
        const std::lock_guard lock(mutex_);
        const auto found = units_.find(device);
        if (found != units_.end()) unit = found->second.lock();
      }
      if (!unit) return;
      const std::lock_guard lock(unit->state().mutex);
      unit->state().notice_size_locked();
    });
  } catch (const std::exception&) {  // the next command notices it
  }
}

std::shared_ptr<LogicalUnits> LogicalUnits::create(Registry& registry, Options options) {
  return std::shared_ptr<LogicalUnits>(new LogicalUnits(registry, std::move(options)));
}

Result<std::shared_ptr<LogicalUnit>> LogicalUnits::open(const UnitOptions& options) {
  if (options.block_size != 512 && options.block_size != 4096)
    return Error{Errc::invalid, fmt::format("LUN of device {}: block size {}: expected 512 or "
                                            "4096",
                                            quoted(options.device), options.block_size)};
  const std::lock_guard lock(mutex_);
  std::weak_ptr<LogicalUnit>& place = units_[options.device];
  if (auto unit = place.lock()) {
    // A device that was removed by force and made anew is another one.
    if (unit->state().device->dead() == Errc::ok) {
      if (unit->options() == options) return unit;
      return Error{Errc::busy,
                   fmt::format("device {} is a LUN already, with another block size, "
                               "provisioning, serial number or access: give all its LUNs the same",
                               quoted(options.device))};
    }
  }
  auto handle = registry_.open(options.device);
  if (!handle) return handle.error();
  if ((*handle)->size().value % options.block_size != 0)
    return Error{Errc::invalid,
                 fmt::format("device {} has {} bytes, which is no multiple of the LUN's block "
                             "size {}",
                             quoted(options.device), (*handle)->size().value, options.block_size)};
  auto state = std::make_unique<UnitState>(*this, options, std::move(*handle));
  if (!options_.folder.empty()) {
    auto saved = read_reservations(options_.folder, scsi::naa_text(state->identity));
    if (!saved) return saved.error();
    state->reservations = std::move(saved.value());
  }
  std::shared_ptr<LogicalUnit> unit(new LogicalUnit(std::move(state)));
  place = unit;
  return unit;
}

std::vector<std::shared_ptr<LogicalUnit>> LogicalUnits::list() const {
  std::vector<std::shared_ptr<LogicalUnit>> units;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, weak] : units_)
    if (auto unit = weak.lock()) units.push_back(std::move(unit));
  return units;
}

}  // namespace blockloom
