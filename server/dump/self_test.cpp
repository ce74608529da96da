#include "server/dump/self_test.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/dump/kernel_dump_header.hpp"
#include "proto/dump/netdump.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t test_bytes = 64 * 1024;
constexpr std::size_t piece = 1448;

void put_text(std::vector<std::byte>& out, std::size_t at, std::string_view text) {
  std::memcpy(out.data() + at, text.data(), text.size());
}

std::vector<std::byte> test_header(const std::string& mark) {
  std::vector<std::byte> h(kernel_dump_header_size);
  put_text(h, 0, "FreeBSD Kernel Dump");
  put_text(h, 20, "amd64");
  put_be32(h.data() + 32, 4);
  put_be64(h.data() + 40, test_bytes);
  put_be64(h.data() + 48, static_cast<std::uint64_t>(wall_time()));
  put_be32(h.data() + 60, 4096);
  put_text(h, 64, "blockloom-test");
  put_text(h, 128, "made up by blockloom dump test");
  put_text(h, 320, mark);
  std::uint32_t parity = 0;
  for (std::size_t i = 0; i < h.size(); i += 4)
    parity ^= be32(h.data() + i);
  put_be32(h.data() + 508, parity);
  return h;
}

/// One connected socket that sends a message until it is acknowledged.
class Sender {
 public:
  Sender(UniqueFd fd, TimePoint deadline) : fd_(std::move(fd)), deadline_(deadline) {}

  Result<void> send(NetdumpType type, std::uint64_t offset, ByteView payload) {
    std::vector<std::byte> packet(netdump_header_size + payload.size());
    put_be32(packet.data(), static_cast<std::uint32_t>(type));
    put_be32(packet.data() + 4, ++seqno_);
    put_be64(packet.data() + 8, offset);
    put_be32(packet.data() + 16, static_cast<std::uint32_t>(payload.size()));
    std::copy(payload.begin(), payload.end(), packet.begin() + netdump_header_size);
    while (Clock::now() < deadline_) {
      if (::send(fd_.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0 &&
          errno != ECONNREFUSED)
        return system_error("dump test: send", errno);
      pollfd wait{fd_.get(), POLLIN, 0};
      while (::poll(&wait, 1, 500) > 0) {
        std::array<std::byte, 16> ack;
        const ssize_t n = ::recv(fd_.get(), ack.data(), ack.size(), MSG_DONTWAIT);
        if (n == netdump_ack_size && be32(ack.data()) == seqno_) return {};
        if (n < 0) break;
      }
    }
    return Error{Errc::timed_out, "dump test: the netdump port does not acknowledge"};
  }

 private:
  const UniqueFd fd_;
  const TimePoint deadline_;
  std::uint32_t seqno_ = 0;
};

}  // namespace

Result<Record> run_self_test(Store& store, const BindPoint& port, Duration timeout) {
  std::random_device seed;
  const std::string mark = fmt::format("blockloom dump test {:08x}{:08x}", seed(), seed());
  BindPoint to = port;
  if (to.address.any())
    if (auto local = Address::parse(port.address.v4() ? "127.0.0.1" : "::1")) to.address = *local;
  sockaddr_storage address;
  const socklen_t size = to.address.to_socket(to.port, address);
  UniqueFd fd(::socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // A machine of its own each time: sessions are told apart by their address.
  if (to.address.v4() && fd) {
    sockaddr_storage from;
    const auto local = Address::parse(
        fmt::format("127.{}.{}.{}", 64 + seed() % 64, seed() % 256, 1 + seed() % 254));
    if (local && ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&from),
                        local.value().to_socket(0, from)) != 0)
      return system_error("dump test: bind", errno);
  }
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0)
    return system_error("dump test: " + to.text(), errno);
  const TimePoint deadline = Clock::now() + timeout;
  Sender sender(std::move(fd), deadline);
  std::vector<std::byte> image(test_bytes);
  std::mt19937_64 random(seed());
  for (std::byte& b : image)
    b = static_cast<std::byte>(random());
  Result<void> sent = sender.send(NetdumpType::herald, 0, {});
  for (std::size_t at = 0; sent && at < image.size(); at += piece)
    sent = sender.send(NetdumpType::vmcore, at,
                       ByteView(image).subspan(at, std::min(piece, image.size() - at)));
  if (sent) sent = sender.send(NetdumpType::kdh, 0, test_header(mark));
  if (sent) sent = sender.send(NetdumpType::finished, 0, {});
  if (!sent) return sent.error();
  // FINISHED is acknowledged when the record is durable.
  for (const Record& record : store.list()) {
    if (record.panic != mark) continue;
    if (record.state == State::complete && record.bytes == test_bytes) return record;
    return Error{Errc::io,
                 fmt::format("dump test: {} is {}", record.id.text(), state_text(record))};
  }
  return Error{Errc::io, "dump test: it was acknowledged and is not in the store"};
}

}  // namespace blockloom::dump
