// JSON-RPC: what a server and a client read from a socket.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/control/line_buffer.hpp"
#include "proto/control/message.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom::rpc;

namespace {

void read_value(std::string_view text, const Limits& limits) {
  Value value;
  Failure failure;
  if (!parse_value(text, value, failure, limits)) {
    demand(!failure.message.empty());
    return;
  }
  // What is written reads back as it was. Replacing what is not UTF-8 may lengthen it.
  Value again;
  demand(parse_value(to_text(value), again, failure));
  demand(to_text(again) == to_text(value));
  demand(parse_value(to_text(value, 2), again, failure));
}

/// Lines come out the same, however the bytes come in.
void cut_lines(std::string_view bytes, std::size_t step) {
  LineBuffer whole(1024), pieces(1024);
  whole.append(bytes);
  std::string first, second;
  while (const auto line = whole.next())
    first.append(*line).push_back('\n');
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    pieces.append(bytes.substr(at, step));
    while (const auto line = pieces.next())
      second.append(*line).push_back('\n');
  }
  if (!whole.overflowed() && !pieces.overflowed()) demand(first == second);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Limits limits;
  limits.depth = 6;
  limits.members = 8;
  limits.values = 64;
  limits.batch = 4;
  for (const Limits& each : {Limits{}, limits}) {
    const Incoming incoming = parse_request(text, each);
    demand(!incoming.requests.empty());
    demand(incoming.requests.size() <= each.batch);
    for (const Request& request : incoming.requests)
      if (request.failure) demand(!to_text(request.id).empty());
    read_value(text, each);
  }
  Reply reply;
  std::string why;
  demand(parse_reply(text, reply, why) || !why.empty());
  cut_lines(text, 1 + size % 13);
  return 0;
}
