#include "plugins/nbdkit/client_sockets.hpp"

#include <string>
#include <utility>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

using blockloom::nbd::ClientSockets;

namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) { REQUIRE(fd >= 0); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// A listener and a client that it accepted.
struct Tcp {
  Fd listener{::socket(AF_INET, SOCK_STREAM, 0)};
  sockaddr_in address{};

  Tcp() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener.get(), 8) == 0);
    socklen_t length = sizeof address;
    REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
  }
  std::pair<Fd, Fd> connect() {
    Fd client(::socket(AF_INET, SOCK_STREAM, 0));
    REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    Fd served(::accept(listener.get(), nullptr, nullptr));
    return {std::move(client), std::move(served)};
  }
};

bool at_end(int fd) {
  char byte = 0;
  return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

}  // namespace

TEST_CASE("clients of a noted listener find the end, and what listens stays") {
  Tcp tcp;
  ClientSockets sockets;
  sockets.note_listeners();
  auto [client, served] = tcp.connect();
  CHECK(sockets.hang_up_reading() == 1);
  CHECK(at_end(served.get()));
  // The answer still gets through.
  CHECK(::send(served.get(), "x", 1, MSG_NOSIGNAL) == 1);
  char byte = 0;
  CHECK(::recv(client.get(), &byte, 1, 0) == 1);
  auto [another, served_too] = tcp.connect();
  CHECK_FALSE(at_end(served_too.get()));
}

TEST_CASE("hanging up ends both sides") {
  Tcp tcp;
  ClientSockets sockets;
  sockets.note_listeners();
  auto [client, served] = tcp.connect();
  CHECK(sockets.hang_up() == 1);
  CHECK(::send(served.get(), "x", 1, MSG_NOSIGNAL) == -1);
}

TEST_CASE("sockets of the process's own are left alone") {
  Tcp nbdkits;
  ClientSockets sockets;
  sockets.note_listeners();
  Tcp own;  // listens only now, as the control socket does
  auto [client, served] = own.connect();
  auto [nbd_client, nbd_served] = nbdkits.connect();
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const Fd left(pair[0]), right(pair[1]);
  CHECK(sockets.hang_up_reading() == 1);
  CHECK(at_end(nbd_served.get()));
  CHECK_FALSE(at_end(served.get()));
  CHECK_FALSE(at_end(left.get()));
  CHECK_FALSE(at_end(nbd_client.get()));
}

TEST_CASE("a Unix listener's clients are known by its name") {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = "/tmp/blockloom-clients-" + std::to_string(::getpid());
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const Fd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(listener.get(), 8) == 0);
  ClientSockets sockets;
  sockets.note_listeners();
  const Fd client(::socket(AF_UNIX, SOCK_STREAM, 0));
  REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  ::unlink(path.c_str());
  const Fd served(::accept(listener.get(), nullptr, nullptr));
  CHECK(sockets.hang_up_reading() == 1);
  CHECK(at_end(served.get()));
  CHECK_FALSE(at_end(client.get()));  // its own reading side is open: answers may come
}
