#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "server/dump/admission.hpp"
#include "server/dump/afterwards.hpp"
#include "server/dump/host.hpp"
#include "server/dump/netconsole_logs.hpp"
#include "server/dump/senders.hpp"
#include "server/dump/service.hpp"
#include "server/dump/udp_port.hpp"

namespace blockloom::dump {

class StreamTls;

/// The inside of the service; only its own files include this. One thread for the network
/// ("bl-dump"), workers for the store.
class Service::Impl final : public Host {
 public:
  Impl(Options options, Notify notify, std::unique_ptr<BackEnd> back_end);
  ~Impl() override;

  Result<void> bind();
  Result<void> start();
  void stop();

  // Host
  Store& store() noexcept override { return store_; }
  Workers& workers() noexcept override { return workers_; }
  const Reception::Copies& copies() const noexcept override { return copies_; }
  void on_network(std::function<void()> task) override;
  bool allowed(const Address& address) const noexcept override { return senders_.allowed(address); }
  bool session_begins(const Address& address, TimePoint now) override {
    return admission_.begins(address, now);
  }
  void session_ended() noexcept override { admission_.ended(); }
  std::string host_name(const Address& address) const override {
    return senders_.host_name(address);
  }
  void dump_began(const Record& record) override { afterwards_.began(record); }
  void dump_ended(const Record& record) override { afterwards_.ended(record); }
  void no_space(const Record& record) override { afterwards_.no_space(record); }
  void join_netconsole(Reception& reception, const Address& address) override {
    join_console(console_, reception, address);
  }

  ServiceInfo info() const;
  Result<void> ready() const;
  Result<void> format();
  Result<void> remove(const DumpId& id);
  Result<Verdict> verify(const DumpId& id);
  Result<Record> import(DeviceHandle device, const std::string& host);
  Result<Record> test(Duration timeout);

 private:
  struct Port;
  struct Running;  // holds what is Asio's

  Result<void> add_port(std::unique_ptr<UdpPort> bound, bool netdump);
  void drain(Port& port);
  void write_console_logs();
  void run();
  void wait_for(Port& port);
  void tick();
  void adopt_all();
  Result<void> open_store();
  void begin();
  void retry_later(Duration wait);

  const Options options_;
  Store store_;
  Senders senders_;
  Admission admission_;
  const Reception::Copies copies_;
  Workers workers_;
  Afterwards afterwards_;

  NetconsoleLogs console_;
  const std::shared_ptr<Workers::Strand> console_strand_ = std::make_shared<Workers::Strand>();

  std::vector<std::unique_ptr<UdpPort>> bound_;  // between bind() and start()
  std::vector<std::unique_ptr<UdpPort>> console_bound_;
  std::vector<UniqueFd> listening_;
  std::shared_ptr<StreamTls> tls_;
  Endpoints endpoints_;
  std::unique_ptr<Running> state_;
  std::thread thread_;
  std::atomic<bool> running_{false};

  mutable std::mutex mutex_;  // protects what follows
  NetdumpCounters netdump_counters_;
  std::string trouble_ = "it is not open yet";
};

}  // namespace blockloom::dump
