#pragma once

#include "clients/blockloom/command.hpp"

namespace CLI {
class App;
}

namespace blockloom::cli {

/// The verbs after `blockloom dump`. The command outlives the parser.
void add_dump_verbs(CLI::App& dump, Command& command);

}  // namespace blockloom::cli
