#include "server/dump/udp_port.hpp"

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace blockloom::dump {
namespace {

constexpr std::size_t slots = 64;
constexpr std::size_t datagram_max = 65536;
constexpr std::size_t answer_max = 32;
constexpr int rounds = 8;               // of recvmmsg before others have their turn
constexpr int socket_buffer = 8 << 20;  // as much of it as the kernel gives

constexpr std::size_t control_size = CMSG_SPACE(sizeof(in6_pktinfo));

std::uint16_t port_of(const sockaddr_storage& a) noexcept {
  return ntohs(a.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(a).sin_port
                                      : reinterpret_cast<const sockaddr_in6&>(a).sin6_port);
}

void note_destination(msghdr& header, UdpPeer& peer) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      sockaddr_in in{};
      in.sin_family = AF_INET;
      in.sin_addr = info.ipi_addr;
      peer.to = Address::of(reinterpret_cast<const sockaddr*>(&in));
      peer.interface = static_cast<unsigned>(info.ipi_ifindex);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      sockaddr_in6 in{};
      in.sin6_family = AF_INET6;
      in.sin6_addr = info.ipi6_addr;
      peer.to = Address::of(reinterpret_cast<const sockaddr*>(&in));
      peer.interface = info.ipi6_ifindex;
    }
  }
}

/// The answer's source is where the request was sent to.
std::size_t set_source(const UdpPeer& peer, bool v6_socket, std::byte* control) {
  auto* c = reinterpret_cast<cmsghdr*>(control);
  sockaddr_storage source{};
  peer.to.to_socket(0, source);
  if (!v6_socket && peer.to.v4()) {
    in_pktinfo info{};
    info.ipi_spec_dst = reinterpret_cast<const sockaddr_in&>(source).sin_addr;
    *c = {CMSG_LEN(sizeof info), IPPROTO_IP, IP_PKTINFO};
    std::memcpy(CMSG_DATA(c), &info, sizeof info);
    return CMSG_SPACE(sizeof info);
  }
  if (v6_socket && !peer.to.v4()) {
    in6_pktinfo info{};
    info.ipi6_addr = reinterpret_cast<const sockaddr_in6&>(source).sin6_addr;
    info.ipi6_ifindex = peer.interface;
    *c = {CMSG_LEN(sizeof info), IPPROTO_IPV6, IPV6_PKTINFO};
    std::memcpy(CMSG_DATA(c), &info, sizeof info);
    return CMSG_SPACE(sizeof info);
  }
  return 0;
}

}  // namespace

struct UdpPort::Buffers {
  struct Answer {
    sockaddr_storage to{};
    socklen_t to_size = 0;
    std::array<std::byte, answer_max> bytes{};
    std::size_t size = 0;
    alignas(cmsghdr) std::array<std::byte, control_size> control{};
    std::size_t control_used = 0;
  };

  // Only what datagrams fill becomes memory.
  std::unique_ptr<std::byte[]> data{new std::byte[slots * datagram_max]};
  std::array<sockaddr_storage, slots> from{};
  struct alignas(cmsghdr) Control {
    std::array<std::byte, control_size> bytes;
  };
  std::array<Control, slots> control{};
  std::array<iovec, slots> io{};
  std::array<mmsghdr, slots> headers{};
  std::vector<Answer> answers;
};

UdpPort::UdpPort(UniqueFd fd, BindPoint where)
    : fd_(std::move(fd)), where_(where), buffers_(std::make_unique<Buffers>()) {
  buffers_->answers.reserve(slots);
}

UdpPort::~UdpPort() = default;

Result<std::unique_ptr<UdpPort>> UdpPort::open(const BindPoint& where) {
  const std::string name = "udp:" + where.text();
  const bool v4 = where.address.v4();
  UniqueFd fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(name, errno);
  const int on = 1, buffer = socket_buffer;
  if (v4) {
    ::setsockopt(fd.get(), IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
  } else {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
  }
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0)
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  sockaddr_storage address;
  socklen_t size = where.address.to_socket(where.port, address);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0)
    return system_error(name, errno);
  size = sizeof address;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return system_error(name, errno);
  BindPoint bound = where;
  bound.port = port_of(address);
  return std::unique_ptr<UdpPort>(new UdpPort(std::move(fd), bound));
}

void UdpPort::drain(const Receive& receive) {
  Buffers& b = *buffers_;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < slots; ++i) {
      b.io[i] = {b.data.get() + i * datagram_max, datagram_max};
      msghdr& h = b.headers[i].msg_hdr;
      h = {};
      h.msg_name = &b.from[i];
      h.msg_namelen = sizeof b.from[i];
      h.msg_iov = &b.io[i];
      h.msg_iovlen = 1;
      h.msg_control = b.control[i].bytes.data();
      h.msg_controllen = control_size;
    }
    const int n = ::recvmmsg(fd_.get(), b.headers.data(), slots, MSG_DONTWAIT, nullptr);
    if (n <= 0) return;
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      msghdr& h = b.headers[at].msg_hdr;
      if ((h.msg_flags & MSG_TRUNC) != 0) continue;
      UdpPeer peer;
      peer.from = Address::of(reinterpret_cast<const sockaddr*>(&b.from[at]));
      peer.port = port_of(b.from[at]);
      note_destination(h, peer);
      receive(peer, {b.data.get() + at * datagram_max, b.headers[at].msg_len});
    }
    flush();
    if (n < static_cast<int>(slots)) return;
  }
}

void UdpPort::send(const UdpPeer& peer, ByteView bytes) {
  if (bytes.size() > answer_max) return;
  Buffers& b = *buffers_;
  Buffers::Answer& answer = b.answers.emplace_back();
  answer.to_size = peer.from.to_socket(peer.port, answer.to);
  answer.size = bytes.size();
  std::copy(bytes.begin(), bytes.end(), answer.bytes.begin());
  answer.control_used = set_source(peer, !where_.address.v4(), answer.control.data());
  if (b.answers.size() >= slots) flush();
}

void UdpPort::flush() {
  Buffers& b = *buffers_;
  std::array<mmsghdr, slots> headers{};
  std::array<iovec, slots> io{};
  for (std::size_t i = 0; i < b.answers.size(); ++i) {
    Buffers::Answer& answer = b.answers[i];
    io[i] = {answer.bytes.data(), answer.size};
    msghdr& h = headers[i].msg_hdr;
    h.msg_name = &answer.to;
    h.msg_namelen = answer.to_size;
    h.msg_iov = &io[i];
    h.msg_iovlen = 1;
    h.msg_control = answer.control_used != 0 ? answer.control.data() : nullptr;
    h.msg_controllen = answer.control_used;
  }
  // One that cannot be sent is lost like any other: the client asks again.
  for (std::size_t sent = 0; sent < b.answers.size();) {
    const int n = ::sendmmsg(fd_.get(), headers.data() + sent,
                             static_cast<unsigned>(b.answers.size() - sent), MSG_DONTWAIT);
    sent += n > 0 ? static_cast<std::size_t>(n) : 1;
  }
  b.answers.clear();
}

}  // namespace blockloom::dump
