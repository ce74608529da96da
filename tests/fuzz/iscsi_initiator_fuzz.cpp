// What a target may send to the initiator: the answers to a login, and what a disk says of itself.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/leg/iscsi_login.hpp"
#include "server/leg/scsi_disk.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

void login(std::string_view bytes, bool chap) {
  IscsiUri uri;
  uri.target = "iqn.2026-01.x:y";
  if (chap) {
    uri.user = "alice";
    uri.password = "open-sesame-1";
    uri.target_user = "disk";
    uri.target_password = "the-disk-itself";
  }
  IscsiLogin login(uri, "iqn.2026-01.x:me", Isid{0x80});
  while (bytes.size() >= iscsi::bhs_size) {
    std::string data;
    login.request(data);
    demand(data.size() <= 8192);
    iscsi::Bhs answer;
    for (std::size_t i = 0; i < iscsi::bhs_size; ++i)
      answer.bytes[i] = static_cast<std::uint8_t>(bytes[i]);
    bytes.remove_prefix(iscsi::bhs_size);
    const std::size_t length = std::min<std::size_t>(answer.data_length(), bytes.size());
    const auto step = login.take(answer, bytes.substr(0, length));
    bytes.remove_prefix(length);
    if (step == IscsiLogin::Step::failed) demand(!login.error().message.empty());
    if (step == IscsiLogin::Step::moved) demand(!login.moved_to().empty());
    // Nobody can make up the proof of mutual CHAP.
    if (step == IscsiLogin::Step::done) {
      demand(!chap);
      const IscsiParameters& agreed = login.parameters();
      demand(agreed.max_send_segment >= 512 && agreed.first_burst <= agreed.max_burst);
      demand(agreed.max_r2t >= 1 && agreed.max_r2t <= 8);
    }
    if (step != IscsiLogin::Step::send) return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  login(text, false);
  login(text, true);

  const std::span<const std::uint8_t> bytes(data, size);
  disk::Traits traits;
  if (const auto sense = disk::parse_sense(bytes)) demand(!disk::to_string(*sense).empty());
  (void)disk::check_inquiry(bytes);
  (void)disk::product(bytes);
  (void)disk::lists_page(bytes, 0xb0);
  disk::take_block_limits(bytes, traits);
  disk::take_provisioning(bytes, traits);
  disk::take_identity(bytes, traits);
  demand(traits.identity.size() <= size);
  disk::take_mode_sense(bytes, traits);
  if (disk::take_capacity_16(bytes, traits) && disk::check_capacity(traits))
    demand(traits.block_size >= 512 && traits.blocks > 0);
  std::uint64_t at = 3;
  for (const auto& run : disk::parse_lba_status(bytes, at)) {
    demand(run.range.lba == at && run.range.blocks > 0);
    at += run.range.blocks;
  }
  return 0;
}
