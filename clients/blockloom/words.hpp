#pragma once

#include <string>

#include "clients/blockloom/command.hpp"

namespace blockloom::cli {

/// Gives the words of a parsed command line their places in the command, and checks that what the
/// verb needs is there and goes together. Empty: all is well; else what to tell the user.
std::string assign_words(Command& command);

}  // namespace blockloom::cli
