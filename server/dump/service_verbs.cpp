// What people ask of the service.
#include <fmt/format.h>

#include "server/dump/import.hpp"
#include "server/dump/self_test.hpp"
#include "server/dump/service_impl.hpp"

namespace blockloom::dump {

ServiceInfo Service::Impl::info() const {
  ServiceInfo info;
  info.endpoints = endpoints_;
  {
    const std::lock_guard lock(mutex_);
    info.netdump = netdump_counters_;
    info.trouble = trouble_;
  }
  info.sessions = admission_.sessions();
  info.sessions_max = options_.sessions;
  info.dumps = store_.list().size();
  info.bytes = store_.total_bytes();
  auto& back_end = const_cast<Store&>(store_).back_end();
  if (auto space = back_end.space()) info.space = *space;
  info.store = back_end.name();
  return info;
}

Result<void> Service::Impl::remove(const DumpId& id) {
  auto record = store_.find(id);
  if (auto removed = store_.remove(id); !removed) return removed;
  if (record) afterwards_.removed(*record);
  return {};
}

Result<Verdict> Service::Impl::verify(const DumpId& id) {
  const auto record = store_.find(id);
  if (!record) return Error{Errc::not_found, fmt::format("there is no dump {}", id.text())};
  if (!record->over())
    return Error{Errc::busy, fmt::format("dump {} is being received", id.text())};
  store_.hold(id);
  auto verdict = verify_image(store_, *record, [this] { return afterwards_.stopping(); });
  store_.let_go(id);
  return verdict;
}

Result<Record> Service::Impl::import(DeviceHandle device, const std::string& host) {
  ImportOptions how;
  how.device = device->name();
  how.host = host;
  how.stop = [this] { return afterwards_.stopping(); };
  how.began = [this](const Record& record) { afterwards_.began(record); };
  const std::uint64_t size = device->size().value;
  const auto source = read_device(std::move(device));
  auto imported = import_dump(store_, *source, size, how);
  if (imported) afterwards_.ended(*imported);
  return imported;
}

Result<Record> Service::Impl::test(Duration timeout) {
  if (endpoints_.netdump.empty())
    return Error{Errc::not_supported, "test: there is no netdump listener to send to"};
  return run_self_test(store_, endpoints_.netdump.front(), timeout);
}

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Service::~Service() = default;

Result<std::unique_ptr<Service>> Service::open(Options options, Notify notify,
                                               std::unique_ptr<BackEnd> device) {
  if (auto good = check_options(options); !good) return good.error();
  if (!device) {
    auto folder = open_folder(options.store);
    if (!folder) return folder.error();
    device = std::move(*folder);
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(notify), std::move(device));
  if (!impl->store().back_end().opens_late())
    if (auto loaded = impl->store().load(); !loaded) return loaded.error();
  if (auto bound = impl->bind(); !bound) return bound.error();
  return std::unique_ptr<Service>(new Service(std::move(impl)));
}

Result<void> Service::start() {
  return impl_->start();
}
void Service::stop() {
  impl_->stop();
}
Store& Service::store() noexcept {
  return impl_->store();
}
ServiceInfo Service::info() const {
  return impl_->info();
}
Result<void> Service::ready() const {
  return impl_->ready();
}
Result<void> Service::format() {
  return impl_->format();
}
Result<void> Service::remove(const DumpId& id) {
  return impl_->remove(id);
}
Result<Verdict> Service::verify(const DumpId& id) {
  return impl_->verify(id);
}
Result<Record> Service::import(DeviceHandle device, const std::string& host) {
  return impl_->import(std::move(device), host);
}
Result<Record> Service::test(Duration timeout) {
  return impl_->test(timeout);
}

}  // namespace blockloom::dump
