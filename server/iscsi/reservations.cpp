#include "server/iscsi/reservations.hpp"

#include <algorithm>

namespace blockloom {

using scsi::Asc;
using scsi::ReservationType;
using scsi::ReserveOut;
using scsi::Sense;
using scsi::SenseKey;
using scsi::Status;

namespace {

using Effect = Reservations::Effect;

void conflict(Effect& effect) {
  effect.status = Status::reservation_conflict;
}

void refuse(Effect& effect, Asc asc, std::optional<std::uint16_t> field = {}, bool in_cdb = false) {
  effect.status = Status::check_condition;
  effect.sense = Sense{SenseKey::illegal_request, asc, {}, field, in_cdb};
}

}  // namespace

const Reservations::Registration* Reservations::find(const NexusPorts& nexus) const {
  const auto found = std::find_if(registrations_.begin(), registrations_.end(),
                                  [&](const Registration& r) { return r.covers(nexus); });
  return found == registrations_.end() ? nullptr : &*found;
}

bool Reservations::is_holder(const Registration& registration) const {
  if (!type_) return false;
  return all_registrants(*type_) || (holder_ && holder_->ports == registration.ports);
}

Reservations::KeptOut Reservations::kept_out(const NexusPorts& nexus) const {
  if (!type_) return {};
  const Registration* own = find(nexus);
  if (own != nullptr && (is_holder(*own) || registrants_only(*type_))) return {};
  return {!write_exclusive(*type_), true, true};
}

Effect Reservations::out(ReserveOut action, std::uint8_t scope_and_type, const NexusPorts& from,
                         const scsi::ReserveOutList& list) {
  Effect effect;
  Registration* own = find(from);
  const bool registers =
      action == ReserveOut::register_key || action == ReserveOut::register_and_ignore;
  // A key that is not the registered one, or no registration at all: SPC-4 5.13.7.1.
  if (action != ReserveOut::register_and_ignore) {
    const std::uint64_t key = own != nullptr ? own->key : 0;
    if ((own == nullptr && !registers) || key != list.key) {
      conflict(effect);
      return effect;
    }
  }
  if (registers) {
    register_key(effect, own, from, list);
    return effect;
  }
  const auto type = scsi::reservation_type(scope_and_type & 0x0f);
  const bool has_type = action != ReserveOut::clear && action != ReserveOut::release;
  if (has_type && (!type || scope_and_type >> 4 != 0)) {
    refuse(effect, Asc::invalid_field_in_cdb, 2, true);
    return effect;
  }
  const Registration me = *own;
  switch (action) {
    case ReserveOut::reserve:
      reserve(effect, me, *type);
      break;
    case ReserveOut::release:
      release(effect, me, scope_and_type);
      break;
    case ReserveOut::clear:
      clear(effect, me);
      break;
    default:
      preempt(effect, me, list.action_key, *type, action == ReserveOut::preempt_and_abort);
      break;
  }
  return effect;
}

void Reservations::register_key(Effect& effect, Registration* own, const NexusPorts& from,
                                const scsi::ReserveOutList& list) {
  // SPEC_I_PT adds others, and is for a nexus that is not registered itself (SPC-4 5.13.7.3).
  if (own != nullptr && !list.others.empty())
    return refuse(effect, Asc::invalid_field_in_parameters, 20);
  if (own == nullptr && list.action_key == 0) return;
  if (own != nullptr && list.action_key == 0) {
    unregister(effect, *own);
  } else if (own != nullptr) {
    own->key = list.action_key;
    if (holder_ && holder_->ports == own->ports) holder_ = *own;
  } else {
    std::vector<Registration> added{{from, list.all_ports, list.action_key}};
    for (const scsi::TransportId& id : list.others)
      added.push_back({{id, from.target, from.port}, list.all_ports, list.action_key});
    for (std::size_t i = 1; i < added.size(); ++i) {
      const auto same = [&](const Registration& r) { return r.ports == added[i].ports; };
      if (!added[i].ports.initiator.isid || find(added[i].ports) != nullptr ||
          std::any_of(added.begin(), added.begin() + static_cast<std::ptrdiff_t>(i), same))
        return refuse(effect, Asc::invalid_field_in_parameters, 28);
    }
    if (registrations_.size() + added.size() > most_registrations)
      return refuse(effect, Asc::insufficient_registration_resources);
    registrations_.insert(registrations_.end(), added.begin(), added.end());
  }
  aptpl_ = list.aptpl;
  ++generation_;
  effect.changed = true;
}

void Reservations::unregister(Effect& effect, Registration own) {
  const bool held = is_holder(own);
  std::erase(registrations_, own);
  if (!held) return;
  if (all_registrants(*type_)) {
    if (registrations_.empty()) type_.reset();
    return;
  }
  if (registrants_only(*type_)) tell_released(effect, own);
  type_.reset();
  holder_.reset();
}

void Reservations::tell_released(Effect& effect, const Registration& but) const {
  for (const Registration& r : registrations_)
    if (!(r == but)) effect.attentions.push_back({r, Asc::reservations_released});
}

void Reservations::reserve(Effect& effect, const Registration& own, ReservationType type) {
  if (type_) {
    if (!is_holder(own) || *type_ != type) conflict(effect);
    return;
  }
  type_ = type;
  if (!all_registrants(type)) holder_ = own;
  effect.changed = true;
}

void Reservations::release(Effect& effect, const Registration& own, std::uint8_t scope_and_type) {
  if (!type_ || !is_holder(own)) return;
  if (scope_and_type != static_cast<std::uint8_t>(*type_))
    return refuse(effect, Asc::invalid_release);
  if (registrants_only(*type_)) tell_released(effect, own);
  type_.reset();
  holder_.reset();
  effect.changed = true;
}

void Reservations::clear(Effect& effect, const Registration& own) {
  for (const Registration& r : registrations_)
    if (!(r == own)) effect.attentions.push_back({r, Asc::reservations_preempted});
  registrations_.clear();
  type_.reset();
  holder_.reset();
  ++generation_;
  effect.changed = true;
}

void Reservations::remove_by_key(Effect& effect, const Registration& own,
                                 std::optional<std::uint64_t> key, bool abort) {
  std::erase_if(registrations_, [&](const Registration& r) {
    if (r == own || (key && r.key != *key)) return false;
    effect.attentions.push_back({r, Asc::registrations_preempted});
    if (abort) effect.abort.push_back(r);
    return true;
  });
}

void Reservations::preempt(Effect& effect, const Registration& own, std::uint64_t key,
                           ReservationType type, bool abort) {
  const bool all = type_ && all_registrants(*type_);
  // Preempts the reservation: its holder's key, or with "all registrants" the key 0.
  const bool takes = type_ && (all ? key == 0 : holder_->key == key);
  if (key == 0 && !all) return refuse(effect, Asc::invalid_field_in_parameters, 8);
  const auto has_key = [&](const Registration& r) { return r.key == key; };
  if (!takes && std::none_of(registrations_.begin(), registrations_.end(), has_key))
    return conflict(effect);
  const auto old_type = type_;
  remove_by_key(effect, own, takes && all ? std::nullopt : std::optional(key), abort);
  // One's own key names oneself too: its tasks go on, its registration stays.
  if (takes) {
    type_ = type;
    holder_.reset();
    if (!all_registrants(type)) holder_ = own;
    if (old_type != type_) tell_released(effect, own);
  }
  ++generation_;
  effect.changed = true;
}

Effect Reservations::move(const NexusPorts& from, const scsi::MoveList& list) {
  Effect effect;
  const Registration* found = find(from);
  if (found == nullptr || found->key != list.key || !type_ || !is_holder(*found) ||
      all_registrants(*type_)) {
    conflict(effect);
    return effect;
  }
  const Registration own = *found;
  const NexusPorts to{list.to, from.target, list.relative_port};
  if (list.action_key == 0) {
    refuse(effect, Asc::invalid_field_in_parameters, 8);
  } else if (!list.to.isid || own.covers(to)) {
    refuse(effect, Asc::invalid_field_in_parameters, 24);
  } else if (list.relative_port != from.port) {
    refuse(effect, Asc::invalid_field_in_parameters, 18);
  }
  if (effect.sense) return effect;
  Registration* target = find(to);
  if (target == nullptr) {
    if (registrations_.size() >= most_registrations) {
      refuse(effect, Asc::insufficient_registration_resources);
      return effect;
    }
    registrations_.push_back({to, false, list.action_key});
    target = &registrations_.back();
  }
  target->key = list.action_key;
  holder_ = *target;
  if (list.unregister) std::erase(registrations_, own);
  aptpl_ = list.aptpl;
  ++generation_;
  effect.changed = true;
  return effect;
}

scsi::ReservationRecord Reservations::record() const {
  scsi::ReservationRecord record;
  record.generation = generation_;
  record.type = type_;
  record.key = holder_ ? holder_->key : 0;
  for (const Registration& r : registrations_)
    record.registrations.push_back(
        {r.ports.initiator, r.ports.port, r.all_ports, r.key, is_holder(r)});
  return record;
}

}  // namespace blockloom
