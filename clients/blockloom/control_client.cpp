#include "clients/blockloom/control_client.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace blockloom::cli {
namespace {

// What the server sends at most, see docs/control-api.md.
constexpr std::size_t longest_answer = (std::size_t{64} << 20) + 4096;

// Tries of a server that has all its connections: for how long, and the pauses between them.
constexpr auto patience = std::chrono::seconds(2);
constexpr auto first_pause = std::chrono::milliseconds(20);
constexpr auto longest_pause = std::chrono::milliseconds(250);

rpc::Limits answer_limits() {
  rpc::Limits limits;
  limits.bytes = longest_answer;
  limits.values = std::size_t{1} << 23;
  return limits;
}

}  // namespace

Exit exit_for(std::string_view errc) noexcept {
  if (errc == "not_found") return Exit::not_found;
  if (errc == "busy") return Exit::busy;
  if (errc == "timed_out") return Exit::timed_out;
  if (errc == "permission") return Exit::permission;
  if (errc == "shutdown" || errc == "unreachable") return Exit::unreachable;
  return Exit::failed;
}

ControlClient::ControlClient(int fd, std::string path)
    : fd_(fd), path_(std::move(path)), lines_(longest_answer) {}

ControlClient::~ControlClient() {
  ::close(fd_);
}

namespace {

/// A connected socket, or -1 with the failure.
int open_socket(const std::string& path, Failure& failure) {
  const auto failed = [&](const std::string& why, Exit exit = Exit::unreachable) {
    failure = {exit, exit == Exit::permission ? "permission" : "unreachable",
               fmt::format("cannot reach the server at '{}': {}", path, why)};
    return -1;
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return failed("the path is too long for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed(std::strerror(errno));
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    ::close(fd);
    if (error == EACCES || error == EPERM) return failed(std::strerror(error), Exit::permission);
    return failed(fmt::format("{} (does it run, and is this its --socket?)", std::strerror(error)));
  }
  return fd;
}

}  // namespace

std::unique_ptr<ControlClient> ControlClient::connect(const std::string& path, Failure& failure) {
  const int fd = open_socket(path, failure);
  if (fd < 0) return nullptr;
  return std::unique_ptr<ControlClient>(new ControlClient(fd, path));
}

bool ControlClient::connect_again(Failure& failure) {
  const int fd = open_socket(path_, failure);
  if (fd < 0) return false;
  ::close(std::exchange(fd_, fd));
  lines_ = rpc::LineBuffer(longest_answer);
  return true;
}

Failure ControlClient::lost(std::string_view why) const {
  return {Exit::unreachable, "unreachable",
          fmt::format("the connection to the server at '{}' ended: {}", path_, why)};
}

bool ControlClient::read_reply(rpc::Reply& reply, Failure& failure) {
  for (;;) {
    if (const auto line = lines_.next()) {
      std::string why;
      if (rpc::parse_reply(*line, reply, why, answer_limits())) return true;
      failure = lost(why);
      return false;
    }
    if (lines_.overflowed()) {
      failure = lost("its answer is too long");
      return false;
    }
    char bytes[65536];
    const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      failure = lost(n == 0 ? "the server closed it" : std::strerror(errno));
      return false;
    }
    lines_.append({bytes, static_cast<std::size_t>(n)});
  }
}

Answer ControlClient::call(std::string_view method, const rpc::Value& params) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + patience;
  for (auto pause = first_pause;; pause = std::min(2 * pause, longest_pause)) {
    bool turned_away = false;
    Answer answer = call_once(method, params, turned_away);
    if (!turned_away || Clock::now() + pause > end) return answer;
    std::this_thread::sleep_for(pause);
    Failure failure;
    if (connect_again(failure)) continue;
    answer.failure = std::move(failure);
    return answer;
  }
}

Answer ControlClient::call_once(std::string_view method, const rpc::Value& params,
                                bool& turned_away) {
  Answer answer;
  const rpc::Value id(next_id_++);
  const std::string text = rpc::write_request(id, method, params) + "\n";
  // A server that refuses the connection has said why before it closed: read even if this fails.
  std::string_view left = text;
  while (!left.empty()) {
    const ssize_t n = ::send(fd_, left.data(), left.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    left.remove_prefix(static_cast<std::size_t>(n));
  }
  for (;;) {
    rpc::Reply reply;
    Failure failure;
    if (!read_reply(reply, failure)) {
      answer.failure = std::move(failure);
      return answer;
    }
    if (!reply.method.empty()) continue;  // a notification that nobody asked for
    if (reply.failure) {
      const std::string errc = reply.failure->data["errc"].text();
      answer.failure = Failure{exit_for(errc), errc, reply.failure->message};
      // Nobody's answer: it is about the connection, which ends with it.
      turned_away = reply.id.is_null() && errc == "limit";
      return answer;
    }
    if (!(reply.id == id)) continue;
    answer.value = std::move(reply.result);
    return answer;
  }
}

bool ControlClient::notification(std::string& method, rpc::Value& params, Failure& failure) {
  rpc::Reply reply;
  do {
    if (!read_reply(reply, failure)) return false;
  } while (reply.method.empty());
  method = std::move(reply.method);
  params = std::move(reply.params);
  return true;
}

}  // namespace blockloom::cli
