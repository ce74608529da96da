#pragma once

#include <functional>

#include "clients/blockloom/command.hpp"
#include "clients/blockloom/control_client.hpp"

namespace blockloom::cli {

/// Carries a command out: asks the server, prints.
Exit run(const Command& command);

// What run() is made of.

/// Prints a failure: a sentence on standard error, and with --json an object on standard output.
Exit report(const Command& command, const Failure& failure);
void print(std::string_view text);
void print_json(const rpc::Value& value);

/// The parameters that name a command's device; empty if it names none.
rpc::Value device_params(const Command& command, std::size_t index = 0);

/// Reads a file, or standard input for "" and "-"; at most what a request may have.
std::optional<std::string> read_text(const std::string& file, Failure& failure);

/// One call; what it answers is printed as JSON with --json, else as `text` makes of it.
Exit call_and_print(const Command& command, ControlClient& client, std::string_view method,
                    const rpc::Value& params,
                    const std::function<std::string(const rpc::Value&)>& text);

Exit run_changes(const Command& command, ControlClient& client);
Exit run_queries(const Command& command, ControlClient& client);
Exit run_wait(const Command& command, ControlClient& client);
Exit run_events(const Command& command, ControlClient& client);
Exit run_iscsi(const Command& command, ControlClient& client);
Exit run_mirrors(const Command& command, ControlClient& client);
Exit wait_in_sync(const Command& command, ControlClient& client);
Exit run_top(const Command& command, ControlClient& client);
Exit run_dump(const Command& command, ControlClient& client);

}  // namespace blockloom::cli
