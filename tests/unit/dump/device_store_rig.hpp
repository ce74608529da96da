#pragma once

#include <map>
#include <random>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include "server/dump/device_store.hpp"
#include "server/dump/device_target.hpp"
#include "server/dump/this_process.hpp"
#include "server/dump/writer.hpp"

/// Device stores for tests, and what is in them.
namespace blockloom::dump::store_rig {

inline constexpr std::size_t disk_size = 8 << 20;

/// A server that is not there any more.
inline StoreOwner gone() {
  StoreOwner owner;
  owner.server[0] = std::byte{1};
  owner.boot = boot_number();
  owner.pid = ~0u;
  owner.in_use = true;
  return owner;
}

inline std::unique_ptr<DeviceStore> over(std::shared_ptr<Leg> leg,
                                         Duration patience = std::chrono::seconds(20)) {
  auto io = DeviceIo::create(std::move(leg), patience);
  REQUIRE(io);
  return std::make_unique<DeviceStore>(std::move(*io));
}

inline std::unique_ptr<DeviceStore> opened(std::shared_ptr<Leg> leg) {
  auto store = over(std::move(leg));
  const auto open = store->open(gone());
  REQUIRE_MESSAGE(open, open.error().message);
  return store;
}

inline std::string pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(size, ' ');
  for (char& c : bytes)
    c = static_cast<char>(random());
  return bytes;
}

inline DumpId id(int n) {
  return {"host", fmt::format("20260102T0304{:02}Z", n)};
}

/// A whole dump, as the common code makes one: the image and its record.
inline void add_dump(DeviceStore& store, const DumpId& name, const std::string& image) {
  REQUIRE(store.add(name));
  REQUIRE(store.put_file(name, "record.json", "receiving"));
  DumpWriter writer;
  writer.add(make_device_target(store, name, false));
  REQUIRE(writer.configure({}));
  for (std::size_t at = 0; at < image.size(); at += 100'000) {
    const std::string_view piece = std::string_view(image).substr(at, 100'000);
    const DumpWrite write{at, as_bytes(piece), 0};
    const auto done = writer.write({&write, 1});
    REQUIRE_MESSAGE(done, done.error().message);
  }
  REQUIRE(writer.finish(image.size()));
  REQUIRE(store.put_file(name, "record.json", "complete"));
}

inline std::string image_of(DeviceStore& store, const DumpId& name) {
  const auto dump = store.find(name);
  REQUIRE(dump);
  std::string bytes(dump->length + 10, ' ');
  const auto got =
      read_runs(store.io(), dump->image, dump->length, 0, std::as_writable_bytes(std::span(bytes)));
  REQUIRE(got);
  bytes.resize(got.value());
  return bytes;
}

inline std::string file_of(DeviceStore& store, const DumpId& name, std::string_view file) {
  const auto found = store.find_file(name, file);
  if (!found) return "(none)";
  auto bytes = store.read_file(*found, 0, 1 << 20);
  REQUIRE(bytes);
  return std::move(*bytes);
}

/// Everything that is in a store, to compare.
inline std::map<std::string, std::string> contents(DeviceStore& store) {
  std::map<std::string, std::string> all;
  for (const DumpId& name : store.list()) {
    const auto dump = store.find(name);
    if (dump->finished) all[name.text()] = image_of(store, name);
    for (const auto& [file, stored] : dump->files)
      all[name.text() + "/" + file] = file_of(store, name, file);
  }
  return all;
}

}  // namespace blockloom::dump::store_rig
