#include "server/leg/iscsi_leg.hpp"

#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;

namespace {

/// The leg of a disk that takes WRITE SAME (10) with UNMAP, and nothing better, for a trim. Nobody
/// listens where its URI leads.
std::shared_ptr<Leg> leg_of(std::uint64_t blocks) {
  auto uri = parse_iscsi_uri("iscsi://127.0.0.1:1/iqn.2026-01.com.example:disk/0?timeout=100ms");
  REQUIRE(uri);
  disk::Traits traits;
  traits.blocks = blocks;
  traits.block_size = 512;
  traits.provisioned = traits.can_unmap_same_10 = true;
  return std::make_shared<IscsiLeg>(*uri, "iscsi://…", "iqn.2026-01.com.example:us", traits, false);
}

}  // namespace

TEST_CASE("a trim that WRITE SAME (10) cannot address is not sent") {
  // Its LBA has 32 bits: what lies behind would wrap, and other blocks would be unmapped.
  constexpr std::uint64_t reach = std::uint64_t{1} << 32;
  CHECK(test::run(*leg_of(reach), Op::trim, 0, 65536) == Errc::timed_out);  // it would be sent
  CHECK(test::run(*leg_of(2 * reach), Op::trim, reach * 512, 65536) == Errc::ok);
}

TEST_CASE("an answer may let an iSCSI leg go, on the leg's own thread") {
  struct Held {
    test::TestIo io{Op::write, 0, 4096};
    std::shared_ptr<Leg> leg;
    test::Waiter gone;
  } held;
  held.leg = leg_of(1 << 20);
  held.io.io.owner = &held;
  held.io.io.complete = [](Io& io) noexcept {
    auto& h = *static_cast<Held*>(io.owner);
    h.leg.reset();
    h.gone.attach(io);
    io.complete(io);
  };
  Leg& leg = *held.leg;
  REQUIRE(leg.submit(held.io.io) == Submit::pending);  // its time passes: nobody listens
  CHECK(held.gone.wait());
  CHECK(held.leg == nullptr);
}
