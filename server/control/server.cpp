#include "server/control/server.hpp"

#include <atomic>
#include <exception>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/control/connection.hpp"
#include "server/control/dispatcher.hpp"
#include "server/control/error_code.hpp"
#include "server/control/socket_file.hpp"

namespace blockloom::control {
namespace {

using Protocol = asio::local::stream_protocol;

/// How long stop() waits for verbs before it shuts the registry down, and for clients to take
/// their last answers.
constexpr Duration verb_grace = std::chrono::seconds(2);
constexpr Duration client_grace = std::chrono::milliseconds(500);
constexpr Duration accept_pause = std::chrono::milliseconds(100);

/// Only the server's own user and root. Errors say who was refused.
Result<void> check_peer(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return system_error("peer credentials", errno);
  if (peer.uid == 0 || peer.uid == ::geteuid()) return {};
  return Error{Errc::permission,
               fmt::format("user {} may not control this server: it serves user {} and root",
                           peer.uid, ::geteuid())};
}

/// Tells a client that is not served why; what its socket does not take at once is lost.
void turn_away(Protocol::socket socket, const Error& why) {
  const std::string text = rpc::write_failure({}, to_failure(why)) + "\n";
  [[maybe_unused]] const auto sent =
      ::send(socket.native_handle(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

class Server::Impl final : public ConnectionHost {
 public:
  Impl(Registry& registry, Options options) : registry_(registry), options_(std::move(options)) {}
  ~Impl() override { stop(); }

  void set_endpoints(std::vector<Endpoint> endpoints) { options_.endpoints = std::move(endpoints); }
  Result<void> listen();
  Result<void> start();
  void stop();
  bool running() const noexcept { return running_.load(); }

 private:
  /// What exists only between start() and stop().
  struct Running {
    Running(Impl& impl, int fd);
    asio::io_context io{1};
    asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
    Protocol::acceptor acceptor;
    asio::steady_timer wait_timer;    // the first time-out of a `wait`
    asio::steady_timer accept_timer;  // after a failed accept
    asio::steady_timer stop_timer;
    Dispatcher dispatcher;
    std::map<Watcher::Owner, std::shared_ptr<Connection>> connections;
    Watcher::Owner next_id = 1;
    std::size_t buffered = 0;
    bool stopping = false;
    std::atomic<bool> pump_posted{false};
  };

  void received(Connection& connection, std::string_view text) override;
  bool buffered(std::ptrdiff_t change) override;
  void closed(Connection& connection) override;

  void run();
  void accept();
  void admit(Protocol::socket socket);
  void pump();
  void arm_wait_timer();
  void close_clients();

  Registry& registry_;
  Options options_;  // fixed once it runs
  std::unique_ptr<SocketFile> socket_file_;
  std::unique_ptr<Running> state_;  // the control thread's, but for what stop() says
  std::uint64_t listener_ = 0;
  std::thread thread_;
  std::atomic<bool> running_{false};
};

Server::Impl::Running::Running(Impl& impl, int fd)
    : acceptor(io, Protocol(), fd),
      wait_timer(io),
      accept_timer(io),
      stop_timer(io),
      dispatcher(impl.registry_, impl.options_,
                 [this](Dispatcher::Task task) { asio::post(io, std::move(task)); }) {}

Result<void> Server::Impl::listen() {
  if (socket_file_) return {};
  auto made = SocketFile::create(options_.socket_path);
  if (!made) return made.error();
  socket_file_ = std::move(*made);
  return {};
}

Result<void> Server::Impl::start() {
  if (running_) return {};
  if (const auto listening = listen(); !listening) return listening.error();
  try {
    state_ = std::make_unique<Running>(*this, socket_file_->release());
    state_->dispatcher.start();
    listener_ = registry_.events().listen([this](const Event&) {
      // At most one call is under way, however many events come.
      if (!state_->pump_posted.exchange(true)) asio::post(state_->io, [this] { pump(); });
    });
    accept();
    thread_ = std::thread([this] { run(); });
  } catch (const std::exception& exception) {
    running_ = true;
    stop();
    return Error{Errc::no_memory,
                 fmt::format("the control server cannot start: {}", exception.what())};
  }
  running_ = true;
  return {};
}

void Server::Impl::run() {
  block_signals();
  set_thread_name("bl-control");
  for (;;) {
    try {
      state_->io.run();
      return;
    } catch (const std::exception& exception) {
      log_error(fmt::format("control: {}", exception.what()));
    }
  }
}

void Server::Impl::stop() {
  if (!running_.exchange(false)) {
    socket_file_.reset();
    return;
  }
  if (listener_ != 0) registry_.events().unlisten(std::exchange(listener_, 0));
  if (state_) {
    asio::post(state_->io, [this] {
      state_->stopping = true;
      asio::error_code ignored;
      state_->acceptor.close(ignored);
      state_->accept_timer.cancel();
      state_->wait_timer.cancel();
      state_->dispatcher.refuse();
      state_->dispatcher.watcher().end_all({Errc::shutdown, "the server is stopping"});
    });
    state_->dispatcher.close();
    if (!state_->dispatcher.wait_idle(Clock::now() + verb_grace)) registry_.shut_down();
    state_->dispatcher.join();
    if (thread_.joinable()) {
      asio::post(state_->io, [this] { close_clients(); });
      thread_.join();
    }
    state_.reset();
  }
  socket_file_.reset();
}

void Server::Impl::close_clients() {
  // closed() takes a connection out of the map.
  const auto all = state_->connections;
  for (const auto& [id, connection] : all)
    connection->close_when_sent();
  state_->work.reset();
  if (state_->connections.empty()) return state_->io.stop();
  state_->stop_timer.expires_after(client_grace);
  state_->stop_timer.async_wait([this](const asio::error_code& error) {
    if (!error) state_->io.stop();
  });
}

void Server::Impl::accept() {
  state_->acceptor.async_accept([this](const asio::error_code& error, Protocol::socket socket) {
    if (state_->stopping || error == asio::error::operation_aborted) return;
    if (!error) {
      accept();  // first: whatever befalls this client, the next one is heard
      return admit(std::move(socket));
    }
    // Out of descriptors, most likely: those who wait in the backlog are served when some close.
    log_warning(fmt::format("control: accept: {}", error.message()));
    state_->accept_timer.expires_after(accept_pause);
    state_->accept_timer.async_wait([this](const asio::error_code& cancelled) {
      if (!cancelled && !state_->stopping) accept();
    });
  });
}

void Server::Impl::admit(Protocol::socket socket) {
  if (const auto allowed = check_peer(socket.native_handle()); !allowed) {
    log_warning("control: " + allowed.error().message);
    return turn_away(std::move(socket), allowed.error());
  }
  if (state_->connections.size() >= options_.limits.connections)
    return turn_away(std::move(socket),
                     {Errc::limit, fmt::format("the server has {} control connections already",
                                               options_.limits.connections)});
  const Watcher::Owner id = state_->next_id++;
  const auto connection =
      Connection::make(state_->io, socket.release(), id, options_.limits, *this);
  state_->connections.emplace(id, connection);
  connection->start();
}

void Server::Impl::received(Connection& connection, std::string_view text) {
  const std::weak_ptr<Connection> weak = connection.weak_from_this();
  const auto requests = std::make_shared<std::size_t>(0);
  state_->dispatcher.receive(
      connection.id(), text,
      [&](std::size_t count) {
        *requests = count;
        connection.begin(count);
      },
      [weak, requests](std::optional<std::string> answer) {
        const auto alive = weak.lock();
        if (!alive) return;
        if (answer) alive->send(std::move(*answer));
        alive->end(*requests);
      },
      [weak](std::string notification) {
        if (const auto alive = weak.lock()) alive->send(std::move(notification));
      });
  arm_wait_timer();
}

bool Server::Impl::buffered(std::ptrdiff_t change) {
  state_->buffered =
      static_cast<std::size_t>(static_cast<std::ptrdiff_t>(state_->buffered) + change);
  return state_->buffered <= options_.limits.total_request_bytes;
}

void Server::Impl::closed(Connection& connection) {
  state_->dispatcher.watcher().drop(connection.id());
  state_->connections.erase(connection.id());
  if (state_->stopping && state_->connections.empty() && !state_->work.owns_work())
    state_->io.stop();
}

void Server::Impl::pump() {
  state_->pump_posted = false;
  state_->dispatcher.watcher().pump();
  arm_wait_timer();
}

void Server::Impl::arm_wait_timer() {
  const auto first = state_->dispatcher.watcher().next_deadline();
  if (!first || state_->stopping) {
    state_->wait_timer.cancel();
    return;
  }
  state_->wait_timer.expires_at(*first);
  state_->wait_timer.async_wait([this](const asio::error_code& error) {
    if (error || state_->stopping) return;
    state_->dispatcher.watcher().expire(Clock::now());
    arm_wait_timer();
  });
}

Server::Server(Registry& registry, Options options)
    : impl_(std::make_unique<Impl>(registry, std::move(options))) {}
Server::~Server() = default;
void Server::set_endpoints(std::vector<Endpoint> endpoints) {
  impl_->set_endpoints(std::move(endpoints));
}
Result<void> Server::listen() {
  return impl_->listen();
}
Result<void> Server::start() {
  return impl_->start();
}
void Server::stop() {
  impl_->stop();
}
bool Server::running() const noexcept {
  return impl_->running();
}

}  // namespace blockloom::control
