#include "server/iscsi/server.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/base/timer_queue.hpp"
#include "server/iscsi/io_thread.hpp"

namespace blockloom::iscsi {
namespace {

using Acceptor = asio::ip::tcp::acceptor;
using Socket = asio::ip::tcp::socket;

constexpr Duration accept_pause = std::chrono::milliseconds(100);
/// Devices that change together are looked at once.
constexpr Duration refresh_delay = std::chrono::milliseconds(50);
constexpr unsigned most_threads_by_itself = 4;

struct Listening {
  PortalOptions portal;
  int fd = -1;
};

Result<int> bind_portal(const PortalOptions& portal) {
  sockaddr_storage address;
  const socklen_t length = to_sockaddr(portal, address);
  const std::string what = fmt::format("iSCSI portal {}", to_string(portal));
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return system_error(what, errno);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.ss_family == AF_INET6) ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::listen(fd, 256) != 0) {
    const int error = errno;
    ::close(fd);
    return system_error(what, error);
  }
  return fd;
}

std::string endpoint_text(const asio::ip::tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return address.is_v6() ? fmt::format("[{}]:{}", address.to_string(), endpoint.port())
                         : fmt::format("{}:{}", address.to_string(), endpoint.port());
}

Address to_address(const asio::ip::tcp::endpoint& endpoint) {
  sockaddr_storage storage{};
  std::copy_n(reinterpret_cast<const std::byte*>(endpoint.data()), endpoint.size(),
              reinterpret_cast<std::byte*>(&storage));
  return address_of(storage);
}

}  // namespace

class Server::Impl {
 public:
  Impl(Registry& registry, IscsiOptions options)
      : registry_(registry), options_(served(std::move(options))) {}
  ~Impl() { stop(); }

  Result<void> listen();
  Result<void> start();
  Result<std::vector<std::string>> reload(const IscsiOptions& options);
  void begin_stop();
  void stop();
  Node* node() noexcept { return enabled_ ? node_.get() : nullptr; }
  std::vector<std::string> portals() const;

 private:
  struct Portal {
    Portal(asio::io_context& io, PortalOptions o, Acceptor a)
        : options(std::move(o)), acceptor(std::move(a)), pause(io) {}
    PortalOptions options;
    Acceptor acceptor;
    asio::steady_timer pause;
    bool closed = false;
  };

  Result<void> start_threads();
  void run();
  void open(Listening listening);
  void accept(const std::shared_ptr<Portal>& portal);
  void admit(Socket socket);
  void device_changed();

  Registry& registry_;
  IscsiOptions options_;
  IscsiOptions begun_;        // options_ at start_threads()
  mutable std::mutex mutex_;  // protects bound_
  std::vector<PortalOptions> bound_;
  std::vector<Listening> waiting_;  // bound, until start()

  std::unique_ptr<Node> node_;
  std::unique_ptr<TimerQueue> mapper_;
  std::atomic<bool> refresh_due_{false};
  std::uint64_t listener_ = 0;

  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::vector<std::shared_ptr<Portal>> portals_;  // the accepting thread's
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::thread acceptor_;
  std::atomic<bool> enabled_{false};  // node_ is there, and is served
  std::mutex lifecycle_;              // start, beginning of a stop: one after the other
  std::atomic<bool> started_{false}, stopping_{false};
};

Result<void> Server::Impl::listen() {
  if (!waiting_.empty() || started_) return {};
  for (const PortalOptions& portal : options_.portals) {
    auto fd = bind_portal(portal);
    if (!fd) {
      for (const Listening& open : waiting_)
        ::close(open.fd);
      waiting_.clear();
      return fd.error();
    }
    waiting_.push_back({portal, *fd});
  }
  const std::lock_guard lock(mutex_);
  bound_ = options_.portals;
  return {};
}

Result<void> Server::Impl::start() {
  if (started_ || !options_.enabled) return {};
  if (auto listening = listen(); !listening) return listening;
  auto started = start_threads();
  if (!started) stop();
  return started;
}

Result<void> Server::Impl::start_threads() {
  const std::lock_guard lock(lifecycle_);
  if (stopping_) return Error{Errc::shutdown, "the iSCSI target is stopping"};
  started_ = true;
  begun_ = options_;
  try {
    mapper_ = std::make_unique<TimerQueue>("bl-iscsi-map");
    node_ = std::make_unique<Node>(registry_, options_, [this] { device_changed(); });
    listener_ = registry_.events().listen([this](const Event& event) {
      if (event.kind != "suspended" && event.kind != "message" && event.kind != "loaded" &&
          event.kind != "cleared")
        device_changed();
    });
    unsigned count = options_.threads;
    if (count == 0)
      count = std::clamp(std::thread::hardware_concurrency(), 1U, most_threads_by_itself);
    for (unsigned i = 0; i < count; ++i)
      threads_.push_back(std::make_unique<IoThread>(*node_, i));
    for (Listening& listening : waiting_)
      open(std::move(listening));
    waiting_.clear();
    acceptor_ = std::thread([this] { run(); });
    enabled_ = true;
  } catch (const std::exception& exception) {
    return Error{Errc::no_memory,
                 fmt::format("the iSCSI target cannot start: {}", exception.what())};
  }
  return {};
}

void Server::Impl::run() {
  block_signals();
  set_thread_name("bl-iscsi-acc");
  for (;;) {
    try {
      io_.run();
      return;
    } catch (const std::exception& exception) {
      log_error(fmt::format("iscsi: {}", exception.what()));
    }
  }
}

void Server::Impl::device_changed() {
  if (refresh_due_.exchange(true)) return;
  mapper_->schedule(Clock::now() + refresh_delay, [this](Errc status) {
    refresh_due_ = false;
    if (status == Errc::ok) node_->refresh();
  });
}

void Server::Impl::open(Listening listening) {
  const bool v6 = listening.portal.host.find(':') != std::string::npos;
  Acceptor acceptor(io_, v6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4(), listening.fd);
  auto portal = std::make_shared<Portal>(io_, std::move(listening.portal), std::move(acceptor));
  portals_.push_back(portal);
  accept(portal);
}

void Server::Impl::accept(const std::shared_ptr<Portal>& portal) {
  portal->acceptor.async_accept([this, portal](const asio::error_code& error, Socket socket) {
    if (portal->closed || error == asio::error::operation_aborted) return;
    if (!error) {
      accept(portal);
      return admit(std::move(socket));
    }
    // Out of descriptors, most likely: those in the backlog are served when some close.
    log_warning(fmt::format("iscsi: accept: {}", error.message()));
    portal->pause.expires_after(accept_pause);
    portal->pause.async_wait([this, portal](const asio::error_code& cancelled) {
      if (!cancelled && !portal->closed) accept(portal);
    });
  });
}

void Server::Impl::admit(Socket socket) {
  asio::error_code error;
  const auto remote = socket.remote_endpoint(error);
  if (error) return;  // gone already
  const auto local = socket.local_endpoint(error);
  if (error) return;
  if (!node_->count_in()) {
    log(LogLevel::debug, fmt::format("iscsi: {}: too many connections", endpoint_text(remote)));
    return;
  }
  Peer peer;
  peer.address = to_address(remote);
  peer.local = to_address(local);
  peer.text = endpoint_text(remote);
  peer.local_text = endpoint_text(local);
  peer.v6 = local.address().is_v6();
  socket.set_option(asio::ip::tcp::no_delay(true), error);
  socket.set_option(asio::socket_base::keep_alive(true), error);
  const auto least = std::min_element(
      threads_.begin(), threads_.end(),
      [](const auto& a, const auto& b) { return a->connections() < b->connections(); });
  const int fd = socket.release(error);
  if (error) {
    node_->not_logged_in();
    return node_->count_out();
  }
  (*least)->serve(fd, std::move(peer));
}

Result<std::vector<std::string>> Server::Impl::reload(const IscsiOptions& wanted) {
  const IscsiOptions next = served(wanted);
  if (!started_) {  // it was never enabled
    options_ = next;
    if (auto started = start(); !started) {
      options_.enabled = false;
      return started.error();
    }
    return std::vector<std::string>();
  }
  std::vector<Listening> fresh;
  std::vector<PortalOptions> kept;
  const auto same_place = [](const PortalOptions& a, const PortalOptions& b) {
    return a.host == b.host && a.port == b.port;
  };
  for (const PortalOptions& portal : next.portals) {
    const bool known = std::any_of(bound_.begin(), bound_.end(),
                                   [&](const auto& b) { return same_place(b, portal); });
    if (known) {
      kept.push_back(portal);
      continue;
    }
    auto fd = bind_portal(portal);
    if (!fd) {
      for (const Listening& open : fresh)
        ::close(open.fd);
      return fd.error();
    }
    fresh.push_back({portal, *fd});
  }
  node_->apply(next);
  enabled_ = next.enabled;
  std::vector<std::string> notes;
  if (next.enabled && next.threads != begun_.threads)
    notes.emplace_back("iscsi.threads changed: it needs a restart to take effect");
  if (next.enabled && (next.state_folder != begun_.state_folder ||
                       next.limits.total_bytes != begun_.limits.total_bytes))
    notes.emplace_back("iscsi's limit of memory or its folder changed: it needs a restart");
  options_ = next;
  {
    const std::lock_guard lock(mutex_);
    bound_ = next.portals;
  }
  asio::post(io_, [this, kept = std::move(kept), fresh = std::move(fresh), same_place] {
    std::erase_if(portals_, [&](const auto& portal) {
      const bool stays = std::any_of(kept.begin(), kept.end(),
                                     [&](const auto& k) { return same_place(k, portal->options); });
      if (stays) return false;
      portal->closed = true;
      asio::error_code ignored;
      portal->acceptor.close(ignored);
      portal->pause.cancel();
      return true;
    });
    for (const Listening& listening : fresh)
      open(listening);
  });
  return notes;
}

void Server::Impl::begin_stop() {
  const std::lock_guard lock(lifecycle_);
  if (stopping_.exchange(true) || !started_) return;
  asio::post(io_, [this] {
    for (const auto& portal : portals_) {
      portal->closed = true;
      asio::error_code ignored;
      portal->acceptor.close(ignored);
      portal->pause.cancel();
    }
    portals_.clear();
    work_.reset();
  });
  for (const auto& thread : threads_)
    thread->begin_stop();
}

void Server::Impl::stop() {
  for (const Listening& open : waiting_)
    ::close(open.fd);
  waiting_.clear();
  if (!started_) return;
  begin_stop();
  started_ = false;
  if (listener_ != 0) registry_.events().unlisten(std::exchange(listener_, 0));
  if (mapper_) mapper_->stop();
  if (acceptor_.joinable()) acceptor_.join();
  for (const auto& thread : threads_)
    thread->join();
  threads_.clear();
}

std::vector<std::string> Server::Impl::portals() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  for (const PortalOptions& portal : bound_)
    all.push_back(portal.advertise.empty() ? to_string(portal) : portal.advertise);
  return all;
}

Server::Server(Registry& registry, IscsiOptions options)
    : impl_(std::make_unique<Impl>(registry, std::move(options))) {}
Server::~Server() = default;
Result<void> Server::listen() {
  return impl_->listen();
}
Result<void> Server::start() {
  return impl_->start();
}
Result<std::vector<std::string>> Server::reload(const IscsiOptions& options) {
  return impl_->reload(options);
}
void Server::begin_stop() {
  impl_->begin_stop();
}
void Server::stop() {
  impl_->stop();
}
Node* Server::node() noexcept {
  return impl_->node();
}
std::vector<std::string> Server::portals() const {
  return impl_->portals();
}

}  // namespace blockloom::iscsi
