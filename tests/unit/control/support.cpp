#include "tests/unit/control/support.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "control-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

TestClient::TestClient(const std::string& path, int receive_buffer) {
  fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(fd_ >= 0);
  const timeval bound{30, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
  if (receive_buffer > 0)
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  REQUIRE_MESSAGE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
                  std::strerror(errno));
}

TestClient::~TestClient() {
  ::close(fd_);
}

bool TestClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

std::string TestClient::line() {
  for (;;) {
    if (const std::size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    char bytes[65536];
    const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
    REQUIRE_MESSAGE((n >= 0 || errno == ECONNRESET), std::strerror(errno));
    if (n <= 0) return {};
    buffer_.append(bytes, static_cast<std::size_t>(n));
  }
}

blockloom::rpc::Reply TestClient::reply() {
  const std::string text = line();
  blockloom::rpc::Reply reply;
  std::string why;
  REQUIRE_MESSAGE(blockloom::rpc::parse_reply(text, reply, why), (why + ": " + text));
  return reply;
}

blockloom::rpc::Reply TestClient::call(std::string_view method, std::string_view params) {
  const int id = next_id_++;
  REQUIRE(send(
      fmt::format(R"({{"jsonrpc":"2.0","id":{},"method":"{}","params":{}}})", id, method, params) +
      "\n"));
  blockloom::rpc::Reply answer = reply();
  CHECK(answer.id.whole() == static_cast<std::uint64_t>(id));
  return answer;
}

void TestClient::half_close() {
  ::shutdown(fd_, SHUT_WR);
}

bool TestClient::at_end() {
  char bytes[65536];
  for (;;) {
    const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return true;
    if (n < 0) return false;
  }
}

namespace {
blockloom::control::Options at(blockloom::control::Options options, const std::string& path) {
  options.socket_path = path;
  return options;
}
}  // namespace

TestServer::TestServer(blockloom::control::Options options)
    : path(folder.path("control.sock")), server(registry, at(std::move(options), path)) {
  const auto started = server.start();
  REQUIRE_MESSAGE(bool(started), (started ? std::string() : started.error().message));
}
