#pragma once

#include <string>
#include <string_view>

namespace blockloom::dump {

/// What a kernel log says of its end.
struct PanicText {
  std::string line;       ///< the panic's own line, without time stamp; empty if there is none
  std::string signature;  ///< that line and the top of the trace, less all that changes from one
                          ///< crash to the next; empty without a line
};

/// From a dmesg, a FreeBSD message buffer or a netconsole log; the last panic in it counts.
PanicText find_panic(std::string_view log);

/// A text without what changes from one crash to the next: addresses, numbers, processors,
/// processes.
std::string normalised(std::string_view line);

}  // namespace blockloom::dump
