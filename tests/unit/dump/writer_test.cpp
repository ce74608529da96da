#include "server/dump/writer.hpp"

#include <algorithm>
#include <cstring>
#include <random>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace blockloom::dump;

namespace {

/// What a target was asked to do, and what it holds; the test keeps it when the target is gone.
struct Medium {
  DumpLimits limits;
  std::string bytes;
  std::vector<std::string> calls;
  Errc fail_write = Errc::ok;
  Errc fail_configure = Errc::ok;
  bool hang = false;  // writes never end
  std::size_t in_flight_most = 0;
};

class FakeTarget final : public DumpTarget {
 public:
  FakeTarget(std::string name, Medium& medium) : name_(std::move(name)), m_(medium) {}

  std::string name() const override { return name_; }
  Result<void> configure(const DumpPlan&) override { return step("configure", m_.fail_configure); }
  DumpLimits query() const noexcept override { return m_.limits; }
  Result<void> ready() override { return step("ready", Errc::ok); }
  Result<void> reserve(std::uint64_t) override { return {}; }
  Result<void> start(std::span<const DumpWrite> batch) noexcept override {
    for (const DumpWrite& write : batch) {
      CHECK(write.offset % m_.limits.alignment == 0);
      CHECK(write.bytes.size() % m_.limits.alignment == 0);
      CHECK(write.bytes.size() <= m_.limits.largest);
      if (m_.fail_write == Errc::ok) {
        const std::size_t end = write.offset + write.bytes.size();
        if (m_.bytes.size() < end) m_.bytes.resize(end);
        std::memcpy(m_.bytes.data() + write.offset, write.bytes.data(), write.bytes.size());
      }
      flight_.push_back({write.tag, m_.fail_write});
    }
    m_.in_flight_most = std::max(m_.in_flight_most, flight_.size());
    CHECK(flight_.size() <= m_.limits.queue);
    return {};
  }
  std::size_t poll(std::span<DumpCompletion> done, TimePoint) noexcept override {
    if (m_.hang || flight_.empty()) return 0;
    done[0] = flight_.back();  // one at a time, the last first
    flight_.pop_back();
    return 1;
  }
  void abandon() noexcept override { m_.calls.push_back("abandon"); }
  Result<void> sync(TimePoint) override { return step("sync", Errc::ok); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    const std::size_t n = offset >= m_.bytes.size()
                              ? 0
                              : std::min<std::size_t>(into.size(), m_.bytes.size() - offset);
    std::memcpy(into.data(), m_.bytes.data() + offset, n);
    return n;
  }
  Result<void> finish(std::uint64_t length, TimePoint) override {
    m_.bytes.resize(length);
    return step("finish", Errc::ok);
  }
  void release() noexcept override { m_.calls.push_back("release"); }
  void unconfigure() noexcept override { m_.calls.push_back("unconfigure"); }

 private:
  Result<void> step(const char* name, Errc code) {
    m_.calls.push_back(name);
    if (code == Errc::ok) return {};
    return Error{code, std::string(name) + " failed"};
  }
  const std::string name_;
  Medium& m_;
  std::vector<DumpCompletion> flight_;
};

using Calls = std::vector<std::string>;

DumpWrite at(std::uint64_t offset, std::string_view text) {
  return {offset, as_bytes(text), 0};
}

}  // namespace

TEST_CASE("a dump goes through the phases in their order") {
  Medium medium;
  {
    DumpWriter writer;
    writer.add(std::make_unique<FakeTarget>("a", medium));
    REQUIRE(writer.configure({}));
    const DumpWrite writes[] = {at(0, "hello "), at(6, "world")};
    REQUIRE(writer.write(writes));
    REQUIRE(writer.sync());
    REQUIRE(writer.finish(11));
  }
  CHECK(medium.bytes == "hello world");
  CHECK(medium.calls == Calls{"configure", "ready", "sync", "finish", "release", "unconfigure"});
}

TEST_CASE("writes are cut to a target's limits, and its queue is never overfilled") {
  Medium medium;
  medium.limits.largest = 10;
  medium.limits.queue = 3;
  DumpWriter writer;
  writer.add(std::make_unique<FakeTarget>("a", medium));
  REQUIRE(writer.configure({}));
  const std::string text(1005, 'x');
  const DumpWrite writes[] = {at(0, text)};
  REQUIRE(writer.write(writes));
  CHECK(medium.bytes == text);
  CHECK(medium.in_flight_most == 3);
}

TEST_CASE("a target of blocks gets whole blocks, whatever is written in whatever order") {
  for (unsigned seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Medium medium;
    medium.limits.alignment = 512;
    medium.limits.largest = 4096;
    medium.limits.queue = 4;
    DumpWriter writer;
    writer.add(std::make_unique<FakeTarget>("a", medium));
    REQUIRE(writer.configure({}));
    std::string image(20'000, ' ');
    for (char& c : image)
      c = static_cast<char>('a' + random() % 26);
    std::vector<std::pair<std::size_t, std::size_t>> pieces;
    for (std::size_t from = 0; from < image.size();) {
      const std::size_t n = std::min<std::size_t>(1 + random() % 1500, image.size() - from);
      pieces.emplace_back(from, n);
      from += n;
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    for (std::size_t i = 0; i < pieces.size();) {
      std::vector<DumpWrite> batch;
      for (std::size_t k = 1 + random() % 5; k > 0 && i < pieces.size(); --k, ++i)
        batch.push_back(
            at(pieces[i].first, std::string_view(image).substr(pieces[i].first, pieces[i].second)));
      REQUIRE(writer.write(batch));
    }
    REQUIRE(writer.finish(image.size()));
    CHECK(medium.bytes == image);
  }
}

TEST_CASE("several targets get the same, and one that fails is left behind") {
  Medium good, bad;
  DumpWriter writer;
  writer.add(std::make_unique<FakeTarget>("bad", bad));
  writer.add(std::make_unique<FakeTarget>("good", good));
  REQUIRE(writer.configure({}));
  const DumpWrite first[] = {at(0, "one")};
  REQUIRE(writer.write(first));
  CHECK(bad.bytes == "one");
  bad.fail_write = Errc::io;
  const DumpWrite second[] = {at(3, "two")};
  REQUIRE(writer.write(second));
  CHECK(writer.degraded());
  REQUIRE(writer.finish(6));
  CHECK(good.bytes == "onetwo");
  CHECK(bad.bytes == "one");
  CHECK(writer.reports()[0].status == Errc::io);
  CHECK(writer.reports()[1].failure.empty());
  CHECK(bad.calls.back() == "unconfigure");
}

TEST_CASE("a target that hangs is late, and the dump goes on without it") {
  Medium good, hung;
  DumpWriter writer(std::chrono::milliseconds(1));
  writer.add(std::make_unique<FakeTarget>("hung", hung));
  writer.add(std::make_unique<FakeTarget>("good", good));
  REQUIRE(writer.configure({}));
  hung.hang = true;
  const DumpWrite writes[] = {at(0, "data")};
  REQUIRE(writer.write(writes));
  CHECK(good.bytes == "data");
  CHECK(writer.reports()[0].status == Errc::timed_out);
  CHECK(std::count(hung.calls.begin(), hung.calls.end(), "abandon") == 1);
  std::vector<std::byte> read(4);
  REQUIRE(writer.read(0, read));
  CHECK(as_text(read) == "data");
}

TEST_CASE("without any target left a dump fails, with the last one's reason") {
  Medium only;
  only.fail_configure = Errc::no_space;
  DumpWriter writer;
  writer.add(std::make_unique<FakeTarget>("only", only));
  const auto configured = writer.configure({});
  CHECK(configured.code() == Errc::no_space);
  const DumpWrite writes[] = {at(0, "x")};
  CHECK(writer.write(writes).code() == Errc::no_space);
}
