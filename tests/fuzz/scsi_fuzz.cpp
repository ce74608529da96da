// A logical unit under any CDBs, with any data, from two sessions: commands of one input follow
// each other on the same unit, over a memory device.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "tests/fuzz/demand.hpp"
#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

/// Reads the input piece by piece; zeroes follow its end.
class Source {
 public:
  Source(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  Octets take(std::size_t count) {
    Octets bytes(count);
    const std::size_t have = std::min(count, size_);
    std::copy_n(data_, have, bytes.begin());
    data_ += have;
    size_ -= have;
    return bytes;
  }
  std::uint32_t number(std::size_t bytes) {
    std::uint32_t value = 0;
    for (const std::uint8_t byte : take(bytes))
      value = value << 8 | byte;
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

struct World {
  Registry registry;
  Executor executor;
  std::shared_ptr<LogicalUnits> units;
  std::shared_ptr<ScsiTarget> target;

  explicit World(std::uint8_t kind) {
    demand(static_cast<bool>(registry.create({"d", "", "", "0 256 linear mem:128K 0", false})));
    demand(static_cast<bool>(registry.create({"e", "", "", "0 64 linear mem:32K 0", false})));
    units = LogicalUnits::create(registry, {});
    target = ScsiTarget::create("iqn.2026-11.blockloom:t", units);
    UnitOptions first, second;
    first.device = "d";
    first.block_size = (kind & 1) != 0 ? 4096 : 512;
    first.thin = (kind & 2) == 0;
    first.read_only = (kind & 4) != 0;
    second.device = "e";
    target->set_luns({{0, units->open(first).value()}, {1, units->open(second).value()}});
  }
};

void check(const Issued& command) {
  const ScsiTask& task = command.task;
  demand(command.ended());
  demand(task.data_in_length <= task.expected_in);
  demand(task.data_in_length <= task.data.capacity());
  const bool has_sense = task.status == scsi::Status::check_condition;
  demand(has_sense == (task.sense_length != 0));
  demand(!has_sense || task.sense[0] == 0x70 || task.sense[0] == 0xf0 || task.sense[0] == 0x72);
}

/// One command: who, where, how much is expected, the CDB, the data.
void run_command(Source& in, Initiator& from) {
  const std::uint8_t how = static_cast<std::uint8_t>(in.number(1));
  const std::uint16_t lun = (how & 1) != 0 ? (how & 2) != 0 ? 7 : 1 : 0;
  from.attribute = static_cast<TaskAttribute>(how >> 2 & 3);
  const std::uint32_t expected = in.number(2);
  const Octets cdb = in.take(16);
  Octets out;
  std::uint32_t expected_in = expected;
  if ((how & 0x10) != 0) {
    // Data of the length that the initiator announces, mostly zeroes.
    out = in.take(std::min<std::size_t>(expected, 256));
    out.resize(expected);
    expected_in = 0;
  }
  auto command = from.start(cdb, std::move(out), expected_in, lun);
  if ((how & 0x20) != 0 && command->step == TaskStep::wants_data) {
    Initiator::Managing abort(from, static_cast<TaskFunction>(how >> 6), &command->task, lun);
    from.executor().drain();
    if (!command->ended()) from.finish(*command);
    abort.wait();
  } else {
    from.finish(*command);
  }
  check(*command);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Source in(data, size);
  World world(static_cast<std::uint8_t>(in.number(1)));
  {
    Initiator a(world.target, world.executor, "a"), b(world.target, world.executor, "b");
    for (Initiator* i : {&a, &b})
      for (const std::uint16_t lun : {0, 1})
        i->settle(lun);
    for (unsigned commands = 0; !in.empty() && commands < 64; ++commands)
      run_command(in, (in.number(1) & 1) != 0 ? b : a);
    static_cast<void>(world.units->list()[0]->info());
  }
  demand(world.units->buffers().bytes_out() == 0);
  return 0;
}
