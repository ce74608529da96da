#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "proto/dump/netdump.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/dump/service_impl.hpp"
#include "server/dump/stream_server.hpp"
#include "server/dump/tcp_listener.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t disk_threads = 4;
constexpr Duration tick_period = std::chrono::seconds(1);
constexpr Duration retain_period = std::chrono::minutes(10);
constexpr Duration retry_period = std::chrono::seconds(5);

}  // namespace

struct Service::Impl::Port {
  Port(asio::io_context& io, std::unique_ptr<UdpPort> p) : port(std::move(p)), ready(io) {}
  std::unique_ptr<UdpPort> port;
  asio::posix::stream_descriptor ready;    // a duplicate of the port's descriptor
  std::unique_ptr<NetdumpServer> netdump;  // null: netconsole's port
};

struct Service::Impl::Running {
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  asio::steady_timer tick{io};
  std::vector<std::unique_ptr<Port>> ports;
  std::unique_ptr<StreamServer> streams;
  TimePoint retained{};
  bool stopping = false;
};

Service::Impl::Impl(Options options, Notify notify, std::unique_ptr<BackEnd> back_end)
    : options_(std::move(options)),
      store_(std::move(back_end), options_.quota, options_.retention),
      senders_(options_),
      admission_(options_.sessions, options_.begins_per_minute),
      workers_("bl-dump-io", disk_threads),
      afterwards_(options_, store_, std::move(notify)) {}

Service::Impl::~Impl() {
  stop();
}

void Service::Impl::on_network(std::function<void()> task) {
  if (state_) asio::post(state_->io, std::move(task));
}

Result<void> Service::Impl::bind() {
  for (const BindPoint& point : options_.netdump) {
    auto port = UdpPort::open(point);
    if (!port) return Error{port.code(), "dump.netdump: " + port.error().message};
    endpoints_.netdump.push_back((*port)->where());
    bound_.push_back(std::move(*port));
  }
  for (const BindPoint& point : options_.netconsole) {
    auto port = UdpPort::open(point);
    if (!port) return Error{port.code(), "dump.netconsole: " + port.error().message};
    endpoints_.netconsole.push_back((*port)->where());
    console_bound_.push_back(std::move(*port));
  }
  for (BindPoint point : options_.stream) {
    auto fd = TcpListener::bind(point);
    if (!fd) return Error{fd.code(), "dump.stream: " + fd.error().message};
    endpoints_.stream.push_back(point);
    listening_.push_back(std::move(*fd));
  }
  auto tls = StreamTls::load(options_.tls);
  if (!tls) return tls.error();
  tls_ = std::move(*tls);
  return senders_.load();
}

Result<void> Service::Impl::start() {
  if (running_) return {};
  try {
    state_ = std::make_unique<Running>();
    for (std::unique_ptr<UdpPort>& bound : bound_)
      if (auto added = add_port(std::move(bound), true); !added) return added;
    for (std::unique_ptr<UdpPort>& bound : console_bound_)
      if (auto added = add_port(std::move(bound), false); !added) return added;
    console_bound_.clear();
    bound_.clear();
    StreamServer::Settings streams;
    streams.idle = options_.timeout;
    streams.tokens = senders_.tokens();
    streams.tls = tls_;
    streams.connections = 4 * options_.sessions;
    state_->streams = std::make_unique<StreamServer>(state_->io, *this, streams);
    workers_.start();
    afterwards_.start();
    if (auto opened = open_store(); opened)
      begin();
    else
      retry_later(retry_period);
    thread_ = std::thread([this] { run(); });
  } catch (const std::exception& exception) {
    running_ = true;
    stop();
    return Error{Errc::no_memory,
                 fmt::format("the crash-dump endpoint cannot start: {}", exception.what())};
  }
  running_ = true;
  return {};
}

Result<void> Service::Impl::add_port(std::unique_ptr<UdpPort> bound, bool netdump) {
  auto port = std::make_unique<Port>(state_->io, std::move(bound));
  UdpPort* const udp = port->port.get();
  const int copy = ::dup(udp->fd());
  if (copy < 0) return system_error("dump: dup", errno);
  port->ready.assign(copy);
  if (netdump) {
    NetdumpServer::Timing timing;
    timing.idle = options_.timeout;
    port->netdump = std::make_unique<NetdumpServer>(
        *this, timing,
        [udp](const UdpPeer& peer, std::uint32_t seqno) { udp->send(peer, netdump_ack(seqno)); },
        [udp] { udp->flush(); });
  }
  state_->ports.push_back(std::move(port));
  return {};
}

/// The store is open: what knocked meanwhile is let in.
void Service::Impl::begin() {
  for (UniqueFd& fd : listening_)
    state_->streams->add(std::move(fd));
  listening_.clear();
  adopt_all();
  for (const auto& port : state_->ports)
    wait_for(*port);
  tick();
}

/// A device may be there later than the server, and has to be read after the fork.
Result<void> Service::Impl::open_store() {
  if (store_.back_end().opens_late()) {
    auto opened = store_.back_end().open();
    if (opened) opened = store_.load();
    if (!opened) {
      const std::lock_guard lock(mutex_);
      if (std::exchange(trouble_, opened.error().message) != opened.error().message)
        log_error(fmt::format("crash dumps are not taken in: {}", opened.error().message));
      return opened;
    }
    log_info(fmt::format("crash dumps are taken in: {} has {} of them", store_.back_end().name(),
                         store_.list().size()));
  }
  const std::lock_guard lock(mutex_);
  trouble_.clear();
  return {};
}

/// On the network's thread, or before it runs.
void Service::Impl::retry_later(Duration wait) {
  state_->tick.expires_after(wait);
  state_->tick.async_wait([this](const asio::error_code& error) {
    if (error || state_->stopping) return;
    workers_.post(console_strand_, [this] {
      const bool opened = bool(open_store());
      on_network([this, opened] {
        if (state_->stopping) return;
        if (opened)
          begin();
        else
          retry_later(retry_period);
      });
    });
  });
}

Result<void> Service::Impl::ready() const {
  const std::lock_guard lock(mutex_);
  if (trouble_.empty()) return {};
  return Error{Errc::busy, "no crash dumps: " + trouble_};
}

Result<void> Service::Impl::format() {
  if (auto made = store_.back_end().format(); !made) return made;
  on_network([this] {
    // A retry that waits comes now; one that runs finds the store itself.
    if (!state_->stopping && state_->tick.cancel() > 0) retry_later(Duration{});
  });
  return {};
}

void Service::Impl::run() {
  block_signals();
  set_thread_name("bl-dump");
  for (;;) {
    try {
      state_->io.run();
      return;
    } catch (const std::exception& exception) {
      log_error(fmt::format("dump: {}", exception.what()));
    }
  }
}

void Service::Impl::stop() {
  if (!running_.exchange(false)) return;
  afterwards_.hurry();
  if (thread_.joinable()) {
    asio::post(state_->io, [this] {
      state_->stopping = true;
      state_->tick.cancel();
      for (const auto& port : state_->ports) {
        asio::error_code ignored;
        port->ready.close(ignored);
        if (port->netdump) port->netdump->shut_down();
      }
      state_->streams->shut_down();
      state_->work.reset();
    });
    thread_.join();
  }
  workers_.stop();
  afterwards_.stop();
  store_.back_end().close();
  state_.reset();
}

/// Dumps that an earlier server was receiving, or that its end cut short.
void Service::Impl::adopt_all() {
  const double now = wall_time();
  const double timeout = std::chrono::duration<double>(options_.timeout).count();
  for (Record& record : store_.list()) {
    const bool open = record.state == State::receiving ||
                      (record.state == State::incomplete && record.reason == Reason::shutdown);
    if (!open) continue;
    NetdumpServer* netdump = state_->ports.empty() ? nullptr : state_->ports[0]->netdump.get();
    if (record.protocol == "netdump" && netdump != nullptr && now - record.updated < timeout) {
      netdump->adopt(record, Clock::now());
    } else if (record.protocol == "stream" && !endpoints_.stream.empty() &&
               now - record.updated < timeout) {
      state_->streams->adopt(record, Clock::now());
    } else if (record.state == State::receiving) {
      record.state = State::incomplete;
      record.reason = Reason::shutdown;
      record.detail = "the server ended in the middle, and the sender did not come back";
      record.finished = now;
      if (auto saved = store_.save(record); !saved) log_error(saved.error().message);
      dump_ended(record);
    }
  }
}

void Service::Impl::wait_for(Port& port) {
  port.ready.async_wait(asio::posix::stream_descriptor::wait_read,
                        [this, &port](const asio::error_code& error) {
                          if (error || state_->stopping) return;
                          drain(port);
                          wait_for(port);
                        });
}

void Service::Impl::drain(Port& port) {
  const TimePoint now = Clock::now();
  port.port->drain([&](const UdpPeer& peer, ByteView bytes) {
    if (port.netdump)
      port.netdump->datagram(peer, bytes, now);
    else if (allowed(peer.from))
      console_.take(peer.from, as_text(bytes), now, wall_time());
  });
}

void Service::Impl::tick() {
  const TimePoint now = Clock::now();
  state_->streams->tick(now);
  NetdumpCounters sum;
  for (const auto& port : state_->ports) {
    if (!port->netdump) continue;
    port->netdump->tick(now);
    port->port->flush();
    sum += port->netdump->counters();
  }
  if (!endpoints_.netconsole.empty()) {
    console_.tick(now, wall_time());
    write_console_logs();
  }
  {
    const std::lock_guard lock(mutex_);
    netdump_counters_ = sum;
  }
  if (now - state_->retained >= retain_period) {
    state_->retained = now;
    afterwards_.retain();
  }
  state_->tick.expires_after(tick_period);
  state_->tick.async_wait([this](const asio::error_code& error) {
    if (!error && !state_->stopping) tick();
  });
}

void Service::Impl::write_console_logs() {
  auto all = std::make_shared<std::map<Address, std::string>>(console_.take_unwritten());
  if (all->empty()) return;
  workers_.post(console_strand_, [this, all] {
    for (const auto& [address, text] : *all)
      if (auto added = store_.back_end().append_log(host_name(address), text); !added)
        log_warning(fmt::format("netconsole: {}", added.error().message));
  });
}

}  // namespace blockloom::dump
