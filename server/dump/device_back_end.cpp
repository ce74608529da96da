#include "server/dump/device_back_end.hpp"

#include <fmt/format.h>

#include "server/dump/bypass_leg.hpp"
#include "server/dump/device_store.hpp"
#include "server/dump/device_target.hpp"

namespace blockloom::dump {
namespace {

constexpr Duration patience_of_a_device = std::chrono::seconds(15);
/// Of a host's log; when it is full its older half goes.
constexpr std::uint64_t host_log_bytes = 512 << 10;

class RunsReader final : public ImageReader {
 public:
  RunsReader(DeviceIo& io, StoredDump dump) : io_(io), dump_(std::move(dump)) {}
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return read_runs(io_, dump_.image, dump_.length, offset, into);
  }

 private:
  DeviceIo& io_;
  const StoredDump dump_;
};

class DeviceBackEnd final : public BackEnd {
 public:
  DeviceBackEnd(std::unique_ptr<DeviceIo> io, DeviceHandle claimed)
      : claimed_(std::move(claimed)), store_(std::move(io)) {}

  std::string name() const override { return store_.name(); }
  bool opens_late() const noexcept override { return true; }
  Result<void> open() override { return store_.open(); }
  Result<void> format() override { return store_.format(); }
  void close() noexcept override { store_.close(); }

  Result<std::vector<DumpId>> list() override { return store_.list(); }
  Result<void> create(const DumpId& id) override { return store_.add(id); }
  Result<void> remove(const DumpId& id) override { return store_.remove(id); }

  std::unique_ptr<DumpTarget> image(const DumpId& id, bool resume) override {
    return make_device_target(store_, id, resume);
  }
  Result<void> name_image(const DumpId& id, std::string_view name) override {
    return store_.name_image(id, name);
  }

  Result<std::unique_ptr<ImageReader>> open_image(const DumpId& id, std::string_view) override {
    auto dump = store_.find(id);
    if (!dump) return Error{Errc::not_found, fmt::format("{}: no dump {}", name(), id.text())};
    return std::unique_ptr<ImageReader>(
        std::make_unique<RunsReader>(store_.io(), std::move(*dump)));
  }

  Result<std::vector<DumpRun>> runs(const DumpId& id, std::string_view,
                                    std::uint64_t length) override {
    auto dump = store_.find(id);
    if (!dump) return Error{Errc::not_found, fmt::format("{}: no dump {}", name(), id.text())};
    std::vector<DumpRun> all;
    for_pieces(dump->image, 0, std::min(length, dump->length),
               [&](std::uint64_t where, std::uint64_t, std::uint64_t n) {
                 all.push_back({name(), where, n});
               });
    return all;
  }

  Result<void> put(const DumpId& id, std::string_view file, std::string_view bytes) override {
    return store_.put_file(id, file, bytes);
  }
  Result<void> write(const DumpId& id, std::string_view file, std::uint64_t offset,
                     std::string_view bytes) override {
    return store_.write_file(id, file, offset, bytes, false);
  }
  Result<void> sync_file(const DumpId&, std::string_view) override { return store_.io().flush(); }

  Result<std::optional<std::string>> get(const DumpId& id, std::string_view file,
                                         std::size_t most) override {
    const auto found = store_.find_file(id, file);
    if (!found) return std::optional<std::string>();
    auto bytes = store_.read_file(*found, 0, most);
    if (!bytes) return bytes.error();
    return std::optional<std::string>(std::move(*bytes));
  }
  Result<void> erase(const DumpId& id, std::string_view file) override {
    return store_.erase_file(id, file);
  }

  Result<void> append_log(std::string_view host, std::string_view text) override {
    const auto found = store_.find_file({}, host);
    const std::uint64_t length = found ? found->length : 0;
    if (!found || length + text.size() <= host_log_bytes)
      return store_.write_file({}, host, length, text, true);
    auto kept = store_.read_file(*found, length / 2, host_log_bytes);
    if (!kept) return kept.error();
    return store_.put_file({}, host, *kept + std::string(text));
  }

  Result<Space> space() override {
    return Space{store_.total_blocks() * store_block, store_.free_blocks() * store_block};
  }
  // The catalogue has a place of its own, and images leave some blocks for texts.
  void free_reserve() noexcept override {}
  void keep_reserve() noexcept override {}

 private:
  const DeviceHandle claimed_;  // none over a plain leg
  DeviceStore store_;
};

Result<std::unique_ptr<BackEnd>> make(std::shared_ptr<Leg> leg, Duration patience,
                                      DeviceHandle claimed) {
  auto io = DeviceIo::create(std::move(leg), patience);
  if (!io) return io.error();
  return std::unique_ptr<BackEnd>(
      std::make_unique<DeviceBackEnd>(std::move(*io), std::move(claimed)));
}

}  // namespace

Result<std::unique_ptr<BackEnd>> make_device_back_end(std::shared_ptr<Leg> leg, Duration patience) {
  return make(std::move(leg), patience, {});
}

Result<std::unique_ptr<BackEnd>> make_device_back_end(Registry& registry, std::string_view device) {
  auto claimed = registry.claim(device,
                                "it holds crash dumps ([dump] device): a finished one is "
                                "the export dump/HOST/TIME");
  if (!claimed) return Error{claimed.code(), "dump.device: " + claimed.error().message};
  if ((*claimed)->read_only())
    return Error{Errc::read_only, fmt::format("dump.device: device '{}' is read-only", device)};
  auto leg = make_bypass_leg((*claimed)->shared_from_this());
  return make(std::move(leg), patience_of_a_device, std::move(*claimed));
}

}  // namespace blockloom::dump
