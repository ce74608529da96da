// Whole tables: every target's grammar, over legs of memory, and a few requests to what was made.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "server/device/table.hpp"
#include "server/leg/memory_leg.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

/// Only memory: a fuzzer must not find the machine's files. What waits is for other tests.
bool harmless(std::string_view text) {
  for (const char* word : {"/", "delay", "hang", "flakey"})
    if (text.find(word) != std::string_view::npos) return false;
  return true;
}

void ended_later(Request&) noexcept {
  demand(false);  // nothing of these tables waits
}

/// What was asked for, inside the table and cut to a size that costs little.
void ask(Table& table, Op op, std::uint64_t where, std::span<std::byte> buffer) {
  Extents extents;
  Request request;
  request.op = op;
  request.offset = Bytes(where % (table.size() / Bytes(512)) * 512);
  request.length = op == Op::flush ? Bytes(0) : Bytes(buffer.size());
  if (request.length > table.size() - request.offset)
    request.length = table.size() - request.offset;
  request.data = buffer.data();
  request.extents = op == Op::extents ? &extents : nullptr;
  request.complete = request.retry = request.table_ended = ended_later;
  if (op == Op::write || op == Op::trim || op == Op::zero)
    if (table.read_only()) return;
  demand(table.submit(request) == Submit::done);
  if (op == Op::extents && request.status == Errc::ok)
    demand(extents.covered() > Bytes(0) && extents.covered() <= request.length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!harmless(text)) return 0;
  NamedMemory memories;
  LegContext context;
  context.memories = &memories;
  const auto made = Table::create(text, size % 7 == 0, context);
  if (!made) {
    demand(!made.error().message.empty());
    return 0;
  }
  Table& table = *made.value();
  demand(table.size() > Bytes(0));

  // What it prints makes the same table again.
  const std::string printed = table.table_text();
  const auto again = Table::create(printed, table.read_only(), context);
  demand(static_cast<bool>(again) && again.value()->table_text() == printed);
  (void)table.status_text();

  std::array<std::byte, 8192> buffer{};
  std::uint64_t where = size;
  for (const Op op :
       {Op::write, Op::read, Op::extents, Op::zero, Op::trim, Op::cache, Op::flush, Op::read}) {
    ask(table, op, where, buffer);
    where = where * 6364136223846793005U + 1442695040888963407U;
  }
  return 0;
}
