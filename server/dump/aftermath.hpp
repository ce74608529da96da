#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "server/base/error.hpp"
#include "server/dump/options.hpp"
#include "server/dump/record.hpp"
#include "server/dump/store.hpp"

namespace blockloom::dump {

/// What a look at a stored image finds.
struct Verdict {
  bool good = false;
  std::string sha256;
  std::string problem;  ///< a sentence; empty if good
};

/// Reads a finished image once: its SHA-256, and against the record's own digests. May take long;
/// `stop` is asked between pieces.
Result<Verdict> verify_image(Store& store, const Record& record, const std::function<bool()>& stop);

/// Finds the kernel log in an image that came without one, by makedumpfile in a child with few
/// rights, and the panic in it. Changes the record only if it found something.
void find_dmesg(Store& store, Record& record);

/// Runs the hook: PROGRAM REASON ADDRESS HOSTNAME RECORD IMAGE, with BLOCKLOOM_DUMP_* in its
/// environment. Failures are logged.
void run_hook(const Options& options, Store& store, const Record& record, std::string_view reason);

}  // namespace blockloom::dump
