// What the words of each verb mean: which is the device, which the file, the sector, the new name.
#include "clients/blockloom/words.hpp"

#include <fmt/format.h>

namespace blockloom::cli {
namespace {

std::optional<std::uint64_t> whole(const std::string& text) {
  if (text.empty() || text.size() > 19 || text.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::stoull(text);
}

/// Takes the device off a list of words, unless --uuid stands for it.
void split_device(Command& command) {
  if (!command.uuid.empty() || command.words.empty()) return;
  command.devices = {command.words.front()};
  command.words.erase(command.words.begin());
}

/// Empty: all is well. So for those that follow.
std::string split_wait(Command& command) {
  split_device(command);
  if (command.words.empty()) return {};
  command.event_number = whole(command.words.front());
  if (!command.event_number)
    return fmt::format("event number '{}': expected a whole number", command.words.front());
  if (command.words.size() > 1) return fmt::format("'{}' is one word too many", command.words[1]);
  if (command.in_sync) return "--in-sync waits for no event number";
  return {};
}

std::string split_message(Command& command) {
  split_device(command);
  if (command.words.size() < 2) return "a message has a sector and at least one word";
  const auto sector = whole(command.words.front());
  if (!sector) return fmt::format("sector '{}': expected a whole number", command.words.front());
  command.sector = *sector;
  command.words.erase(command.words.begin());
  return {};
}

/// ACTION DEVICE [LEG] [URI]
std::string split_leg(Command& command) {
  std::vector<std::string>& words = command.words;
  const std::string action = words.empty() ? std::string() : words.front();
  const bool known = action == "add" || action == "remove" || action == "replace" ||
                     action == "fail" || action == "readd" || action == "vouch";
  if (!known)
    return fmt::format("leg '{}': expected add, remove, replace, fail, readd or vouch", action);
  if (command.uuid.empty() && words.size() > 1) {
    command.devices = {words[1]};
    words.erase(words.begin() + 1);
  }
  const std::size_t wanted = action == "replace" ? 3 : 2;
  if (words.size() > wanted) return fmt::format("'{}' is one word too many", words[wanted]);
  if (words.size() == wanted) return {};
  return fmt::format("leg {} has {}", action,
                     action == "add"       ? "a device and the URI of the new leg"
                     : action == "replace" ? "a device, a leg and the URI of the new one"
                                           : "a device and a leg");
}

std::string check_migrate(const Command& command) {
  if (command.migrate_from.empty() || command.migrate_to.empty())
    return "migrate has --from LEG and --to URI";
  return {};
}

std::string split_load(Command& command) {
  split_device(command);
  if (command.words.size() > 1) return fmt::format("'{}' is one word too many", command.words[1]);
  if (!command.words.empty()) command.file = command.words.front();
  return {};
}

std::string split_rename(Command& command) {
  std::vector<std::string>& names = command.devices;
  if (command.new_uuid.empty()) {
    if (names.empty()) return "the new name is missing";
    command.new_name = names.back();
    names.pop_back();
  }
  if (names.size() > 1) return fmt::format("'{}' is one word too many", names[1]);
  return {};
}

std::string split_iscsi(Command& command) {
  command.what = command.words.empty() ? std::string() : command.words.front();
  const bool kick = command.what == "kick";
  if (!kick && command.what != "sessions" && command.what != "targets" && command.what != "luns" &&
      command.what != "reservations")
    return fmt::format("'{}': expected sessions, targets, luns, reservations or kick",
                       command.what);
  const bool chosen = !command.initiator.empty() || !command.target.empty() || command.all;
  if (!kick && chosen) return "--initiator, --target and --all are for kick";
  if (command.words.size() > 2 || (!kick && command.words.size() > 1))
    return fmt::format("'{}' is one word too many", command.words.back());
  if (!kick) return {};
  if (command.words.size() == 2) {
    const auto tsih = whole(command.words[1]);
    if (!tsih || *tsih == 0 || *tsih > 65535)
      return fmt::format("session '{}': expected the number of one, as 'iscsi sessions' shows it",
                         command.words[1]);
    command.tsih = *tsih;
  } else if (!chosen) {
    return "which sessions? Give one's number, --initiator, --target or --all";
  }
  return {};
}

bool takes_one(Verb verb) {
  return verb == Verb::load || verb == Verb::rename || verb == Verb::message ||
         verb == Verb::wait || verb == Verb::attach_help || verb == Verb::leg ||
         verb == Verb::migrate || verb == Verb::mirror_status;
}

bool takes_some(Verb verb) {
  return verb == Verb::clear || verb == Verb::suspend || verb == Verb::resume ||
         verb == Verb::remove;
}

std::string split(Command& command) {
  switch (command.verb) {
    case Verb::wait:
      return split_wait(command);
    case Verb::leg:
      return split_leg(command);
    case Verb::migrate:
      return check_migrate(command);
    case Verb::message:
      return split_message(command);
    case Verb::load:
    case Verb::reload:
      return split_load(command);
    case Verb::rename:
      return split_rename(command);
    case Verb::iscsi:
      return split_iscsi(command);
    default:
      return {};
  }
}

}  // namespace

std::string assign_words(Command& command) {
  if (auto wrong = split(command); !wrong.empty()) return wrong;
  if (command.table && !command.file.empty())
    return "a table comes from --table or from a file, not from both";
  if (command.verb == Verb::reload && (!command.devices.empty() || !command.uuid.empty()))
    command.verb = Verb::load;
  const bool by_uuid = !command.uuid.empty() && command.verb != Verb::create;
  if (by_uuid && !command.devices.empty())
    return "a device is named by its name or by --uuid, not by both";
  const bool named = by_uuid || !command.devices.empty();
  if (!named && (takes_one(command.verb) || takes_some(command.verb)))
    return "the device is missing";
  if (command.verb == Verb::reload && (command.table || !command.file.empty() || command.read_only))
    return "a table is loaded into a device: name it";
  if (command.no_table && (command.table || !command.file.empty()))
    return "--notable goes with no table";
  if (command.dry_run) command.verb = Verb::check;
  return {};
}

}  // namespace blockloom::cli
