#include "plugins/nbdkit/client_streams.hpp"

#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

using blockloom::nbd::ClientStreams;

namespace {

/// nbdkit's end of a connection, which the streams carry, and the client's.
struct Connection {
  explicit Connection(int type = SOCK_STREAM) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
    server = ends[0];
    client = ends[1];
  }
  struct Tcp {};
  explicit Connection(Tcp) {
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(listener, any, length) == 0);
    REQUIRE(::listen(listener, 1) == 0);
    REQUIRE(::getsockname(listener, any, &length) == 0);
    REQUIRE(::connect(client, any, length) == 0);
    server = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    REQUIRE(server >= 0);
    ::close(listener);
  }
  ~Connection() {
    if (server >= 0) streams->close(server);
    hang_up();
  }
  void hang_up() {
    if (client >= 0) ::close(client);
    client = -1;
  }
  void put(std::string_view bytes) {
    REQUIRE(::send(client, bytes.data(), bytes.size(), 0) == ssize_t(bytes.size()));
  }
  std::string get() {
    std::string bytes(1 << 16, '\0');
    const ssize_t n = ::recv(client, bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(n > 0 ? std::size_t(n) : 0);
    return bytes;
  }
  /// All of it, as nbdkit's raw_recv does; shorter at the end of the stream.
  std::string receive(std::size_t length) {
    std::string bytes(length, '\0');
    std::size_t got = 0;
    while (got < length) {
      const ssize_t n = streams->receive(server, bytes.data() + got, length - got);
      REQUIRE(n >= 0);
      if (n == 0) break;
      got += std::size_t(n);
    }
    bytes.resize(got);
    return bytes;
  }
  ssize_t send(std::string_view bytes, int flags) {
    return streams->send(server, bytes.data(), bytes.size(), flags);
  }
  int waiting() {
    int bytes = -1;
    REQUIRE(::ioctl(server, FIONREAD, &bytes) == 0);
    return bytes;
  }

  std::shared_ptr<ClientStreams> streams = std::make_shared<ClientStreams>();
  int server = -1, client = -1;
};

std::string request(char kind) {
  return std::string("\x25\x60\x95\x13", 4) + std::string(23, '\0') + kind;
}

TEST_CASE("nothing of a handshake is read ahead") {
  Connection c;
  c.put("option....data..next option");
  CHECK(c.receive(10) == "option....");
  CHECK(c.waiting() == 17);
  CHECK(c.receive(6) == "data..");
  CHECK(c.waiting() == 11);
}

TEST_CASE("from the first request on, what has arrived is taken with one call") {
  Connection c;
  c.put(request('a'));
  CHECK(c.receive(28) == request('a'));
  c.put(request('b') + "payload" + request('c'));
  CHECK(c.receive(28) == request('b'));
  CHECK(c.waiting() == 0);
  CHECK(c.receive(7) == "payload");
  c.put("late");
  CHECK(c.receive(28) == request('c'));
  CHECK(c.receive(4) == "late");
  c.hang_up();
  CHECK(c.receive(28).empty());
}

TEST_CASE("over TCP nothing is read ahead, and the parts of an answer are gathered") {
  Connection c{Connection::Tcp()};
  c.put(request('a') + request('b'));
  CHECK(c.receive(28) == request('a'));
  CHECK(c.receive(10) == request('b').substr(0, 10));
  CHECK(c.waiting() == 18);
  CHECK(c.send("header", MSG_MORE) == 6);
  CHECK(c.send("data", 0) == 4);
  std::string answer;
  while (answer.size() < 10)
    answer += c.get();
  CHECK(answer == "headerdata");
}

TEST_CASE("a large payload arrives whole, with little of it read ahead") {
  Connection c;
  c.put(request('a'));
  c.receive(28);
  std::string payload(100'000, '\0');
  for (std::size_t i = 0; i < payload.size(); ++i)
    payload[i] = char(i * 7 + i / 251);
  for (int round = 0; round < 3; ++round) {
    c.put(request('w') + payload + request('r'));
    CHECK(c.receive(28) == request('w'));
    CHECK(c.waiting() >= int(payload.size() - ClientStreams::read_ahead));
    CHECK(c.receive(payload.size()) == payload);
    CHECK(c.receive(28) == request('r'));
  }
}

TEST_CASE("a request cut short ends as a short read") {
  Connection c;
  c.put(request('a') + request('b').substr(0, 11));
  CHECK(c.receive(28) == request('a'));
  c.hang_up();
  CHECK(c.receive(28).size() == 11);
}

TEST_CASE("the parts of an answer leave as one message") {
  Connection c(SOCK_SEQPACKET);
  c.put(request('a'));
  c.receive(28);
  CHECK(c.send("header", MSG_MORE) == 6);
  CHECK(c.send("offset", MSG_MORE) == 6);
  CHECK(c.get().empty());
  CHECK(c.send("data", 0) == 4);
  CHECK(c.get() == "headeroffsetdata");
  CHECK(c.send("alone", 0) == 5);
  CHECK(c.get() == "alone");
}

TEST_CASE("large data leave in a call of their own, after the parts") {
  Connection c(SOCK_SEQPACKET);
  c.put(request('a'));
  c.receive(28);
  const std::string data(100'000, 'd');
  CHECK(c.send("header", MSG_MORE) == 6);
  CHECK(c.send(data, 0) == ssize_t(data.size()));
  CHECK(c.get() == "header");
}

TEST_CASE("parts that are too long to hold are sent at once, in order") {
  Connection c;
  c.put(request('a'));
  c.receive(28);
  const std::string part(50, 'p');
  CHECK(c.send("1" + part, MSG_MORE) == 51);
  CHECK(c.send("2" + part, MSG_MORE) == 51);
  CHECK(c.send("3", 0) == 1);
  CHECK(c.get() == "1" + part + "2" + part + "3");
}

TEST_CASE("before the first request parts are sent as they come") {
  Connection c(SOCK_SEQPACKET);
  CHECK(c.send("option", MSG_MORE) == 6);
  CHECK(c.get() == "option");
}

TEST_CASE("an answer larger than the socket takes arrives whole") {
  Connection c;
  c.put(request('a'));
  c.receive(28);
  int small = 4096;
  REQUIRE(::setsockopt(c.server, SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
  timeval patience{0, 1000};  // a full socket gives EAGAIN: parts have gone, and nbdkit asks again
  REQUIRE(::setsockopt(c.server, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0);
  std::string data(200'000, 'd');
  data.back() = 'e';
  CHECK(c.send("header", MSG_MORE) == 6);
  std::string arrived;
  for (std::size_t sent = 0; sent < data.size();) {
    const ssize_t n = c.send(std::string_view(data).substr(sent), 0);
    if (n > 0) sent += std::size_t(n);
    for (std::string more = c.get(); !more.empty(); more = c.get())
      arrived += more;
  }
  CHECK(arrived == "header" + data);
}

TEST_CASE("a client that is gone is found by reading, not by sending") {
  Connection c;
  c.put(request('a'));
  c.receive(28);
  c.hang_up();
  CHECK(c.send("header", MSG_MORE) == 6);
  CHECK(c.send("data", 0) == 4);
  CHECK(c.send("data", 0) == 4);
  CHECK(c.receive(28).empty());
}

TEST_CASE("a descriptor's number starts anew after close") {
  Connection old;
  old.put(request('a') + request('b'));
  old.receive(28);
  CHECK(old.receive(1) == request('b').substr(0, 1));  // 27 bytes are kept
  const int number = old.server;
  CHECK(old.streams->close(number) == 0);
  old.server = -1;
  Connection fresh;
  REQUIRE(::dup2(fresh.server, number) == number);  // often the same one already
  fresh.put("hello");
  std::string bytes(5, '\0');
  CHECK(old.streams->receive(number, bytes.data(), 5) == 5);
  CHECK(bytes == "hello");
  if (fresh.server != number) old.server = number;
}

}  // namespace
