#pragma once

#include <memory>
#include <string>

#include "server/dump/target.hpp"

namespace blockloom::dump {

/// A dump in a file of mode 0600. Writes go to the page cache at once; room is taken ahead of
/// them. `resume`: the file is there, and what it holds stays.
std::unique_ptr<DumpTarget> make_file_target(std::string path, bool resume);

}  // namespace blockloom::dump
