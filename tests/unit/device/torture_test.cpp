#include <atomic>
#include <random>
#include <thread>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "server/device/registry.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t sectors = 512;

/// The same bytes at the same places, as a stripe set and as one linear segment a chunk.
std::string striped_table() {
  return fmt::format("0 {} striped 2 8 mem:1M?name=t1 0 mem:1M?name=t2 0", sectors);
}

std::string linear_table() {
  std::string table;
  for (std::uint64_t chunk = 0; chunk < sectors / 8; ++chunk)
    table +=
        fmt::format("{} 8 linear mem:1M?name=t{} {}\n", chunk * 8, chunk % 2 + 1, chunk / 2 * 8);
  return table;
}

/// Writes numbers into sectors that are its own and checks that it reads them back.
void client(Device& device, unsigned number, unsigned clients, std::atomic<bool>& stop,
            std::atomic<int>& wrong, std::atomic<long>& done) {
  std::mt19937 random(number);
  std::vector<std::uint64_t> expected(sectors, 0);
  while (!stop) {
    const std::uint64_t sector = random() % (sectors / clients) * clients + number;
    auto data = filled(sector_size, 0);
    if (random() % 2) {
      const std::uint64_t value = expected[sector] + 1;
      std::memcpy(data.data(), &value, sizeof value);
      if (write_at(device, sector * sector_size, data) != Errc::ok) ++wrong;
      expected[sector] = value;
    } else {
      if (read_at(device, sector * sector_size, data) != Errc::ok) ++wrong;
      std::uint64_t value = 0;
      std::memcpy(&value, data.data(), sizeof value);
      if (value != expected[sector]) ++wrong;
    }
    ++done;
  }
}

}  // namespace

TEST_CASE("tables swapped under load lose nothing and mix nothing up") {
  Registry registry;
  REQUIRE(registry.create(
      {"keep", "", "", "0 4096 striped 2 8 mem:1M?name=t1 0 mem:1M?name=t2 0", false}));
  REQUIRE(registry.create({"low", "", "", striped_table(), false}));
  REQUIRE(registry.create({"up", "", "", fmt::format("0 {} linear dev:low 0", sectors), false}));
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<long> done{0};
  const auto low = device_of(registry, "low");
  const auto up = device_of(registry, "up");
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < 4; ++i)
    clients.emplace_back([&, i] { client(i % 2 ? *up : *low, i, 4, stop, wrong, done); });
  const std::string tables[] = {linear_table(), striped_table()};
  for (int i = 0; i < 200; ++i) {
    if (i % 3 == 0) {
      CHECK(registry.apply({{"low", "", "", tables[i % 2], false}}));
    } else {
      CHECK(registry.load("low", tables[i % 2], false));
      CHECK(registry.suspend("low", {}));
      CHECK(registry.resume("low"));
    }
  }
  stop = true;
  for (auto& c : clients)
    c.join();
  CHECK(wrong == 0);
  CHECK(done > 0);
}

TEST_CASE("shutting down under load ends every request") {
  for (int round = 0; round < 10; ++round) {
    auto registry = std::make_unique<Registry>();
    REQUIRE(
        registry->create({"v", "", "", "0 2048 linear fault:[write=delay:1ms]:mem:1M 0", false}));
    std::vector<std::thread> clients;
    std::atomic<int> started{0};
    for (int i = 0; i < 4; ++i)
      clients.emplace_back([&, handle = std::move(registry->open("v").value())]() {
        auto data = filled(512, 1);
        ++started;
        while (write_at(*handle, 0, data) == Errc::ok) {
        }
      });
    while (started < 4)
      std::this_thread::yield();
    registry->shut_down();
    for (auto& c : clients)
      c.join();
    clients.clear();
  }
}
