#include "server/io/buffer_pool.hpp"

#include <atomic>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace blockloom;

namespace {

std::shared_ptr<IoBufferPool> make(IoBufferPool::Options options) {
  auto pool = IoBufferPool::create(options);
  REQUIRE(pool);
  return *pool;
}

}  // namespace

TEST_CASE("a buffer holds what was asked for, on a page of its own") {
  auto pool = make({});
  for (const std::uint64_t length : {1ULL, 512ULL, 4096ULL, 4097ULL, 65536ULL, 1ULL << 20}) {
    const IoBufferRef buffer = pool->acquire(Bytes(length));
    REQUIRE(buffer);
    CHECK(buffer.capacity().value >= length);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096 == 0);
  }
  CHECK_FALSE(pool->acquire(Bytes((1 << 20) + 1)));
  CHECK(pool->out() == Bytes(0));
}

TEST_CASE("a buffer goes back when the last hold lets go, and is used again") {
  auto pool = make({});
  IoBufferRef first = pool->acquire(Bytes(4096));
  std::byte* const data = first.data();
  IoBufferRef second = first;
  first.reset();
  CHECK(pool->out() == Bytes(4096));
  second.reset();
  CHECK(pool->out() == Bytes(0));
  CHECK(pool->acquire(Bytes(4096)).data() == data);
}

TEST_CASE("past the bound the reserve is given, then nothing until a buffer comes back") {
  auto pool = make({.largest = Bytes(65536), .reserve = 1, .limit = Bytes(8192)});
  int room = 0;
  pool->on_room([&] { ++room; });
  IoBufferRef a = pool->acquire(Bytes(4096)), b = pool->acquire(Bytes(4096));
  IoBufferRef reserved = pool->acquire(Bytes(4096));
  CHECK(a);
  CHECK(b);
  CHECK(reserved.capacity() == Bytes(65536));
  CHECK_FALSE(pool->acquire(Bytes(512)));
  CHECK(room == 0);
  a.reset();
  CHECK(room == 1);
  b.reset();
  CHECK(room == 1);
  CHECK(pool->acquire(Bytes(512)));
}

TEST_CASE("buffers outlive the one who made the pool") {
  auto pool = make({});
  IoBufferRef buffer = pool->acquire(Bytes(4096));
  pool.reset();
  buffer.data()[4095] = std::byte{1};
  CHECK(buffer.data()[4095] == std::byte{1});
}

TEST_CASE("threads take, share and drop buffers at once") {
  auto pool = make({.largest = Bytes(65536), .reserve = 2, .limit = Bytes(1 << 20)});
  std::vector<std::thread> threads;
  std::atomic<bool> torn{false};
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 2000; ++i) {
        const IoBufferRef buffer = pool->acquire(Bytes(512 << (i % 8)));
        if (!buffer) continue;
        buffer.data()[0] = static_cast<std::byte>(t);
        const IoBufferRef copy = buffer;
        if (copy.data()[0] != static_cast<std::byte>(t)) torn = true;
      }
    });
  for (auto& thread : threads)
    thread.join();
  CHECK_FALSE(torn);
  CHECK(pool->out() == Bytes(0));
}
