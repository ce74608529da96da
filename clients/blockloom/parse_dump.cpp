#include "clients/blockloom/parse_dump.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace blockloom::cli {

void add_dump_verbs(CLI::App& dump, Command& command) {
  dump.require_subcommand(1);
  const auto verb = [&](const char* name, DumpVerb which, const char* about) {
    CLI::App* sub = dump.add_subcommand(name, about);
    sub->fallthrough();
    sub->callback([&command, which] { command.dump_verb = which; });
    return sub;
  };
  const auto one = [&](CLI::App* sub) {
    sub->add_option("dump", command.dumps, "HOST/TIME, the beginning of one, or HOST for its last")
        ->required()
        ->expected(1)
        ->type_name("");
  };
  const auto some = [&](CLI::App* sub) {
    sub->add_option("dump", command.dumps, "dumps")->required()->type_name("");
  };

  CLI::App* sub = verb("ls", DumpVerb::ls, "list dumps, with the line of their panic");
  sub->add_option("host", command.dumps, "only of this host")->expected(0, 1)->type_name("");
  one(verb("show", DumpVerb::show, "all that is known of a dump"));
  sub = verb("dmesg", DumpVerb::dmesg, "the kernel's log at the crash");
  one(sub);
  sub->add_flag("--netconsole", command.netconsole, "what netconsole brought instead");
  sub = verb("get", DumpVerb::get, "copy a dump out of the store");
  one(sub);
  sub->add_option("-o,--output", command.output, "file; -: standard output")->type_name("FILE");
  some(verb("verify", DumpVerb::verify, "read dumps again and compare their digests"));
  sub = verb("pin", DumpVerb::pin, "keep dumps from being removed");
  some(sub);
  sub->add_flag("--off", command.unpin, "let them go again");
  some(verb("rm", DumpVerb::rm, "remove dumps"));
  sub = verb("import", DumpVerb::import,
             "take the dump that a machine wrote to a device as to a disk");
  sub->add_option("device", command.dumps, "device")->required()->expected(1)->type_name("");
  sub->add_option("--host", command.host, "keep it under this name; default: the machine's own")
      ->type_name("HOST");
  sub = verb("format", DumpVerb::format, "make the device of the dump store an empty store");
  sub->add_option("device", command.dumps, "device")->required()->expected(1)->type_name("");
  verb("watch", DumpVerb::watch, "follow what happens to dumps");
  verb("groups", DumpVerb::groups, "dumps by the signature of their panic");
  sub = verb("test", DumpVerb::test, "send a small made-up dump through the whole path");
  sub->add_option_function<std::string>(
         "--timeout",
         [&command](const std::string& text) {
           command.timeout_s = parse_seconds(text);
           if (!command.timeout_s)
             throw CLI::ValidationError(
                 "--timeout", fmt::format("'{}': expected a time, such as 5s or 2m", text));
         },
         "for it to arrive; default 20s")
      ->type_name("TIME");
  verb("info", DumpVerb::info, "the endpoint: listeners, sessions, space");
  sub = verb("enable-help", DumpVerb::enable_help,
             "print the lines that make a machine send its dumps here");
  sub->add_option("host", command.dumps, "this server, as the machine reaches it")
      ->required()
      ->expected(1)
      ->type_name("");
}

}  // namespace blockloom::cli
