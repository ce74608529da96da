// The engine alone: Device::submit on the calling thread, without nbdkit, sockets or clients, so
// that a regression of some nanoseconds shows. The first rows are the floor: what the system calls
// and the copy cost without an engine.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/device/registry.hpp"

namespace blockloom {
namespace {

constexpr std::uint64_t block = 4096;
constexpr std::uint64_t device_size = 64 << 20;  // more than the caches hold, less than any machine
constexpr std::uint64_t sectors = device_size / sector_size;
constexpr std::uint64_t many = 10000;

/// Random blocks of a device, the same sequence in every run.
class Offsets {
 public:
  Offsets(std::uint64_t size, int thread)
      : blocks_(size / block), state_(0x9e3779b97f4a7c15ULL + static_cast<std::uint64_t>(thread)) {}

  Bytes next() noexcept {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return Bytes((((state_ >> 32) * blocks_) >> 32) * block);
  }

 private:
  std::uint64_t blocks_;
  std::uint64_t state_;
};

void die(const Error& error) {
  fmt::print(stderr, "engine_bench: {}\n", error.message);
  std::exit(1);
}

void create(Registry& registry, const std::string& name, std::string table) {
  if (auto r = registry.create({name, {}, {}, std::move(table), false}); !r) die(r.error());
}

/// One request after the other; every target here answers before submit returns.
void submit(benchmark::State& state, Registry& registry, const std::string& name, Op op,
            std::uint64_t length, Errc expected) {
  auto device = registry.open(name);
  if (!device) die(device.error());
  std::vector<std::byte> buffer(length);
  Offsets offsets((*device)->size().value - length + block, state.thread_index());
  for (auto _ : state) {
    Request request;
    request.op = op;
    request.offset = offsets.next();
    request.length = Bytes(length);
    request.data = buffer.data();
    const Submit result = (*device)->submit(request);
    if (result != Submit::done || request.status != expected) [[unlikely]] {
      state.SkipWithError("a request failed, or did not end in the caller's thread");
      break;
    }
  }
  state.SetItemsProcessed(state.iterations());
}

void floor_pread(benchmark::State& state) {
  const int fd = memfd_create("floor", MFD_CLOEXEC);
  std::vector<char> buffer(block, 'x');
  for (std::uint64_t at = 0; at < device_size; at += block)
    if (pwrite(fd, buffer.data(), block, static_cast<off_t>(at)) != static_cast<ssize_t>(block))
      std::exit(1);
  Offsets offsets(device_size, state.thread_index());
  for (auto _ : state)
    if (pread(fd, buffer.data(), block, static_cast<off_t>(offsets.next().value)) < 0) break;
  close(fd);
}

std::string segments(const std::string& type, const std::string& leg) {
  const std::uint64_t length = sectors / many / 8 * 8;  // no request crosses a segment
  std::string table;
  for (std::uint64_t i = 0; i < many; ++i) {
    table += fmt::format("{} {} {}", i * length, length, type);
    table += leg.empty() ? "\n" : fmt::format(" {} {}\n", leg, i * length);
  }
  return table;
}

void make_devices(Registry& registry) {
  const std::string memory = fmt::format("mem:{}", device_size);
  const std::string half = fmt::format("mem:{}?name=", device_size / 2);
  create(registry, "error", fmt::format("0 {} error\n", sectors));
  create(registry, "error10k", segments("error", ""));
  create(registry, "zero", fmt::format("0 {} zero\n", sectors));
  create(registry, "linear", fmt::format("0 {} linear {} 0\n", sectors, memory));
  create(registry, "linear10k", segments("linear", memory));
  create(registry, "striped", fmt::format("0 {} striped 2 128 {}a 0 {}b 0\n", sectors, half, half));
  create(
      registry, "striped3",
      fmt::format("0 {} striped 3 24 {}a 0 {}b 0 {} 0\n", sectors / 72 * 72, half, half, memory));
  create(registry, "stacked", fmt::format("0 {} linear dev:linear 0\n", sectors));
  create(registry, "stacked2", fmt::format("0 {} linear dev:stacked 0\n", sectors));
}

/// Writes every block, so that no read finds a hole.
void fill(Registry& registry, const std::string& name) {
  auto device = registry.open(name);
  if (!device) die(device.error());
  std::vector<std::byte> buffer(1 << 20, std::byte{0x5a});
  const std::uint64_t size = (*device)->size().value;
  for (std::uint64_t at = 0; at < size; at += buffer.size()) {
    Request request;
    request.op = Op::write;
    request.offset = Bytes(at);
    request.length = Bytes(std::min<std::uint64_t>(buffer.size(), size - at));
    request.data = buffer.data();
    if ((*device)->submit(request) != Submit::done || request.status != Errc::ok)
      die({request.status, fmt::format("device '{}': cannot fill it", name)});
  }
}

void add(Registry& registry, const std::string& title, const std::string& device, Op op,
         std::uint64_t length = block, Errc expected = Errc::ok) {
  auto* entry = benchmark::RegisterBenchmark(
      title.c_str(), [&registry, device, op, length, expected](benchmark::State& state) {
        submit(state, registry, device, op, length, expected);
      });
  entry->UseRealTime()->Threads(1);
  if (length == block) entry->Threads(2);
}

void add_all(Registry& registry) {
  benchmark::RegisterBenchmark("floor: pread of a memfd", floor_pread)->UseRealTime()->Threads(1);
  // The error target touches no byte: the engine's own path.
  add(registry, "error: 1 segment", "error", Op::read, block, Errc::io);
  add(registry, "error: 10000 segments", "error10k", Op::read, block, Errc::io);
  add(registry, "zero: read", "zero", Op::read);
  add(registry, "linear over mem: read", "linear", Op::read);
  add(registry, "linear over mem: write", "linear", Op::write);
  add(registry, "10000 linear over mem: read", "linear10k", Op::read);
  add(registry, "striped 2 × 64 KiB over mem: read", "striped", Op::read);
  add(registry, "striped 3 × 12 KiB over mem: read", "striped3", Op::read);
  add(registry, "dev over linear over mem: read", "stacked", Op::read);
  add(registry, "dev over dev over linear over mem: read", "stacked2", Op::read);
  add(registry, "linear over mem: 1 MiB read", "linear", Op::read, 1 << 20);
  add(registry, "striped 2 × 64 KiB over mem: 1 MiB read", "striped", Op::read, 1 << 20);
}

}  // namespace
}  // namespace blockloom

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  blockloom::Registry registry;
  blockloom::make_devices(registry);
  for (const char* name : {"linear", "linear10k", "striped", "striped3"})
    blockloom::fill(registry, name);
  blockloom::add_all(registry);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
