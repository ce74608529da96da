// The command line. The only file that knows CLI11.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "clients/blockloom/command.hpp"
#include "clients/blockloom/parse_dump.hpp"
#include "clients/blockloom/words.hpp"

namespace blockloom::cli {
namespace {

constexpr const char* default_socket = "/run/blockloom/control.sock";
constexpr double longest_s = 7200;  // what the server takes

// Who changes names what; who asks may ask for everything.
constexpr const char* changed_devices = "devices";
constexpr const char* asked_devices = "devices; none: all";

constexpr const char* footer =
    "Verbs, options and output are dmsetup's where it has them. Exit status: 0 done, 1 failed,\n"
    "2 usage, 3 no such device, 4 busy, 5 cannot reach the server, 6 timed out,\n"
    "7 not permitted. See blockloom(8).";

/// The tree of verbs and where their words go. Lives as long as it parses.
class Grammar {
 public:
  Grammar();
  CLI::App& app() { return app_; }
  Command& command() { return command_; }
  /// The list of words that goes on after "--".
  std::vector<std::string>& tail() {
    const Verb verb = command_.verb;
    if (verb == Verb::dump) return command_.dumps;
    const bool words = verb == Verb::message || verb == Verb::wait || verb == Verb::leg ||
                       verb == Verb::load || verb == Verb::reload;
    return words ? command_.words : command_.devices;
  }

 private:
  CLI::App* verb(const char* name, Verb verb, const char* about);
  void one_device(CLI::App* sub, const char* about = "device");
  void devices(CLI::App* sub, const char* about);
  void uuid(CLI::App* sub);
  void table_source(CLI::App* sub);
  void flag(CLI::App* sub, const char* names, bool& target, const char* about);
  CLI::Option* seconds(CLI::App* sub, const char* name, std::optional<double>& target,
                       const char* about);
  void changing_verbs();
  void asking_verbs();
  void watching_verbs();
  void many_device_verbs();
  void iscsi_verb();
  void mirror_verbs();
  void leg_options(CLI::App* sub);

  Command command_;
  CLI::App app_{"Controls a running Blockloom server.", "blockloom"};
};

CLI::App* Grammar::verb(const char* name, Verb verb, const char* about) {
  CLI::App* sub = app_.add_subcommand(name, about);
  sub->fallthrough();
  sub->callback([this, verb] { command_.verb = verb; });
  return sub;
}

void Grammar::uuid(CLI::App* sub) {
  sub->add_option("-u,--uuid", command_.uuid, "names the device by its uuid");
}

void Grammar::one_device(CLI::App* sub, const char* about) {
  sub->add_option("device", command_.devices, about)->expected(0, 1)->type_name("");
  uuid(sub);
}

void Grammar::devices(CLI::App* sub, const char* about) {
  sub->add_option("device", command_.devices, about)->type_name("");
  uuid(sub);
}

void Grammar::flag(CLI::App* sub, const char* names, bool& target, const char* about) {
  sub->add_flag(names, target, about);
}

CLI::Option* Grammar::seconds(CLI::App* sub, const char* name, std::optional<double>& target,
                              const char* about) {
  return sub
      ->add_option_function<std::string>(
          name,
          [name, &target](const std::string& text) {
            target = parse_seconds(text);
            if (!target)
              throw CLI::ValidationError(
                  name,
                  fmt::format("'{}': expected a time up to two hours, such as 5s, 500ms or 2m",
                              text));
          },
          about)
      ->type_name("TIME");
}

void Grammar::table_source(CLI::App* sub) {
  sub->add_option("--table", command_.table, "the table's text");
  flag(sub, "-r,--readonly", command_.read_only, "the device is read-only");
}

void Grammar::changing_verbs() {
  CLI::App* sub = verb("create", Verb::create, "make a device, with a table or without");
  sub->add_option("name", command_.new_name, "of the new device")->required()->type_name("");
  sub->add_option("file", command_.file, "file with the table; none: standard input")
      ->type_name("");
  table_source(sub);
  sub->add_option("-u,--uuid", command_.uuid, "of the new device");
  sub->add_option("--description", command_.description, "what NBD clients see");
  flag(sub, "-n,--notable", command_.no_table, "without a table");

  sub = verb("load", Verb::load, "load a table into the inactive slot");
  sub->add_option("device", command_.words, "device, and a file with the table")
      ->expected(0, 2)
      ->type_name("");
  uuid(sub);
  table_source(sub);

  sub = verb("reload", Verb::reload,
             "without a device: the server reads its configuration again; else as load");
  sub->add_option("device", command_.words, "device and file, as for load")
      ->expected(0, 2)
      ->type_name("");
  uuid(sub);
  table_source(sub);

  sub = verb("clear", Verb::clear, "empty the inactive slot");
  devices(sub, changed_devices);

  sub = verb("suspend", Verb::suspend, "hold back new I/O and wait for what is in flight");
  devices(sub, changed_devices);
  flag(sub, "--noflush", command_.no_flush, "do not flush the legs");
  seconds(sub, "--for", command_.lease_s, "go on by itself after this time");
  seconds(sub, "--timeout", command_.timeout_s, "for what is in flight");

  sub = verb("resume", Verb::resume, "swap in the inactive table, if any, and go on");
  devices(sub, changed_devices);
  flag(sub, "--noflush", command_.no_flush, "do not flush the legs before a swap");
  seconds(sub, "--timeout", command_.timeout_s, "for what is in flight");

  sub = verb("remove", Verb::remove, "remove devices");
  devices(sub, changed_devices);
  flag(sub, "-f,--force", command_.force, "also open ones: all their I/O fails from now on");
  flag(sub, "--deferred", command_.deferred, "open ones when they are closed");

  sub = verb("rename", Verb::rename, "change a device's name, or set its uuid");
  sub->add_option("device", command_.devices, "device, and its new name")
      ->expected(0, 2)
      ->type_name("");
  uuid(sub);
  sub->add_option("--setuuid", command_.new_uuid, "set the uuid, once, instead of the name");

  sub = verb("message", Verb::message, "send words to the target that holds a sector");
  sub->add_option("words", command_.words, "device, sector, message…")->type_name("");
  uuid(sub);
}

void Grammar::asking_verbs() {
  CLI::App* sub = verb("ls", Verb::ls, "list devices");
  flag(sub, "--tree", command_.tree, "with what they stand on");

  sub = verb("info", Verb::info, "show the state of devices");
  devices(sub, asked_devices);
  flag(sub, "-c,--columns", command_.columns, "a line each");
  flag(sub, "--noheadings", command_.no_headings, "columns without their names");

  sub = verb("table", Verb::table, "show tables");
  devices(sub, asked_devices);
  flag(sub, "--inactive", command_.inactive, "the inactive ones");

  sub = verb("status", Verb::status, "show the state of targets");
  devices(sub, asked_devices);
  flag(sub, "--inactive", command_.inactive, "of the inactive tables");

  sub = verb("deps", Verb::deps, "show the legs of devices");
  devices(sub, asked_devices);

  verb("targets", Verb::targets, "list the kinds of target");
  verb("version", Verb::version, "show the versions of this program and of the server");

  sub = verb("attach-help", Verb::attach_help, "print the lines with which clients attach");
  one_device(sub);
}

void Grammar::watching_verbs() {
  CLI::App* sub = verb("wait", Verb::wait, "wait for an event of a device");
  sub->add_option("device", command_.words, "device, and the event number to pass")
      ->expected(0, 2)
      ->type_name("");
  uuid(sub);
  flag(sub, "--in-sync", command_.in_sync, "until its mirrors are in sync");
  seconds(sub, "--timeout", command_.timeout_s, "give up after this time");

  sub = verb("events", Verb::events, "show what happened to devices");
  sub->add_option("device", command_.devices, "only of this device")->expected(0, 1)->type_name("");
  flag(sub, "-F,--follow", command_.follow, "go on as events happen");
  sub->add_option("--since", command_.since, "only after this sequence number");

  sub = verb("top", Verb::top, "show rates and latencies of devices and legs");
  sub->add_option("device", command_.devices, "only of this device")->expected(0, 1)->type_name("");
  sub->add_option_function<std::string>(
         "--interval",
         [this](const std::string& text) {
           const auto parsed = parse_seconds(text);
           if (!parsed || *parsed < 0.1)
             throw CLI::ValidationError("--interval",
                                        fmt::format("'{}': expected a time from 100ms up", text));
           command_.interval_s = *parsed;
         },
         "between refreshes; default 1s")
      ->type_name("TIME");
  flag(sub, "--once", command_.once, "show one interval and end");
}

void Grammar::leg_options(CLI::App* sub) {
  sub->add_option("--offset", command_.leg_offset, "first sector in the new leg")->type_name("N");
  sub->add_option("--leg-timeout-ms", command_.leg_timeout_ms, "of the new leg; 0: none")
      ->type_name("N");
  seconds(sub, "--timeout", command_.timeout_s, "for what is in flight, or to be copied");
}

void Grammar::mirror_verbs() {
  CLI::App* sub =
      verb("leg", Verb::leg, "add, remove, replace, fail, readd, vouch: a mirror's legs");
  sub->add_option("words", command_.words, "what to do, device, leg, URI")->type_name("");
  uuid(sub);
  leg_options(sub);

  sub = verb("migrate", Verb::migrate, "move a mirror's leg while clients go on");
  one_device(sub);
  sub->add_option("--from", command_.migrate_from, "the leg that leaves")->type_name("LEG");
  sub->add_option("--to", command_.migrate_to, "the leg that comes")->type_name("URI");
  leg_options(sub);

  sub = verb("mirror-status", Verb::mirror_status, "show a device's mirrors and their legs");
  one_device(sub);
}

void Grammar::many_device_verbs() {
  CLI::App* sub = verb("apply", Verb::apply, "swap the devices of a file as one, all or nothing");
  sub->add_option("file", command_.file, "TOML, as the configuration; -: standard input")
      ->required()
      ->type_name("");
  flag(sub, "--dry-run", command_.dry_run, "only say what it would do");
  flag(sub, "--noflush", command_.no_flush, "do not flush the legs");
  seconds(sub, "--timeout", command_.timeout_s, "for what is in flight");

  sub = verb("check", Verb::check, "say what apply would do");
  sub->add_option("file", command_.file, "TOML, as the configuration; -: standard input")
      ->required()
      ->type_name("");
}

void Grammar::iscsi_verb() {
  CLI::App* sub = verb("iscsi", Verb::iscsi, "show the iSCSI target, or end sessions");
  sub->add_option("what", command_.words, "sessions, targets, luns, reservations, or kick [TSIH]")
      ->expected(1, 2)
      ->required()
      ->type_name("");
  sub->add_option("--initiator", command_.initiator, "kick: the sessions of this initiator");
  sub->add_option("--target", command_.target, "kick: the sessions with this target");
  flag(sub, "--all", command_.all, "kick: all sessions");
}

Grammar::Grammar() {
  const char* from_environment = std::getenv("BLOCKLOOM_SOCKET");
  command_.socket = from_environment && *from_environment ? from_environment : default_socket;
  app_.add_option(
      "--socket", command_.socket,
      "the server's control socket; default $BLOCKLOOM_SOCKET, or " + std::string(default_socket));
  app_.add_flag("--json", command_.json, "answer in JSON");
  app_.set_version_flag("--version", "blockloom " BLOCKLOOM_VERSION);
  app_.require_subcommand(1);
  app_.footer(footer);
  changing_verbs();
  asking_verbs();
  watching_verbs();
  many_device_verbs();
  iscsi_verb();
  add_dump_verbs(*verb("dump", Verb::dump, "look at the crash dumps that came in"), command_);
  mirror_verbs();
}

/// What to say of a command line that CLI11 refuses: it does not name a verb that it lacks.
std::string refusal(const CLI::App& app, const CLI::ParseError& error) {
  const bool no_verb =
      dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && app.get_subcommands().empty();
  if (!no_verb) return error.what();
  const std::vector<std::string> words = app.remaining();
  if (words.empty()) return "a verb is missing";
  return fmt::format("'{}' is not {}", words.front(),
                     words.front().starts_with('-') ? "an option" : "a verb");
}

}  // namespace

std::optional<double> parse_seconds(const std::string& text) {
  static const std::map<std::string, double> units{{"", 1},      {"s", 1},  {"ms", 1e-3},
                                                   {"us", 1e-6}, {"m", 60}, {"h", 3600}};
  const std::size_t end = text.find_first_not_of("0123456789.");
  const std::string digits = text.substr(0, end);
  const auto unit = units.find(end == std::string::npos ? "" : text.substr(end));
  if (digits.empty() || digits.size() > 15 || digits == "." || unit == units.end() ||
      digits.find('.') != digits.rfind('.'))
    return std::nullopt;
  const double value = std::strtod(digits.c_str(), nullptr) * unit->second;
  if (!(value <= longest_s)) return std::nullopt;
  return value;
}

Parsed parse(int argc, const char* const* argv) {
  Grammar grammar;
  // The words after "--" are nobody's options; CLI11 would hand them to the program itself, not
  // to the verb.
  int end = 1;
  while (end < argc && std::string_view(argv[end]) != "--")
    ++end;
  try {
    grammar.app().parse(end, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      std::ostringstream out;
      grammar.app().exit(error, out, out);
      return {std::nullopt, out.str(), Exit::ok};
    }
    return {std::nullopt,
            fmt::format("blockloom: {}; see blockloom --help\n", refusal(grammar.app(), error)),
            Exit::usage};
  }
  for (int i = end + 1; i < argc; ++i)
    grammar.tail().push_back(argv[i]);
  if (auto wrong = assign_words(grammar.command()); !wrong.empty())
    return {std::nullopt, fmt::format("blockloom: {}; see blockloom --help\n", wrong), Exit::usage};
  return {std::move(grammar.command()), {}, Exit::ok};
}

std::vector<VerbOptions> verb_options() {
  Grammar grammar;
  std::vector<VerbOptions> all;
  const auto of = [](const CLI::App* app, std::string name) {
    VerbOptions verb{std::move(name), {}};
    for (const CLI::Option* option : app->get_options())
      for (const std::string& word : option->get_lnames())
        verb.options.push_back("--" + word);
    return verb;
  };
  all.push_back(of(&grammar.app(), ""));
  for (const CLI::App* sub : grammar.app().get_subcommands(nullptr)) {
    VerbOptions verb = of(sub, sub->get_name());
    for (const CLI::App* word : sub->get_subcommands(nullptr))
      for (const std::string& option : of(word, "").options)
        if (std::find(verb.options.begin(), verb.options.end(), option) == verb.options.end())
          verb.options.push_back(option);
    all.push_back(std::move(verb));
  }
  return all;
}

}  // namespace blockloom::cli
