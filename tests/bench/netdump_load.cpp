// A load generator for netdump servers: machines that dump at the same time, as FreeBSD's debugnet
// does it (batches of 64 KiB, each waited for). One thread; each machine has an address of its own
// out of 127.0.0.0/8.
//
//   netdump_load --port PORT [--machines N] [--mib MIB] [--mtu BYTES]
//
// Prints one line of JSON: packets of data, those sent again, seconds, packets a second, MiB a
// second, the CPU seconds that this client took, and when each machine was done.
#include <algorithm>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/text/number.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

enum Type : std::uint32_t { herald = 1, finished = 2, vmcore = 3, kernel_dump_header = 4 };
constexpr std::size_t header_size = 24, batch_max = 64, batch_bytes = 65536;
constexpr std::size_t kdh_size = 512;
constexpr unsigned resends_max = 30;

struct Settings {
  std::uint16_t port = 20023;
  unsigned machines = 1, mtu = 1500;
  std::uint64_t bytes = 64u << 20;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "netdump_load: {}\n", what);
  std::exit(1);
}

void put(unsigned char* to, std::uint64_t value, int bytes) {
  for (int i = bytes - 1; i >= 0; --i, value >>= 8)
    to[i] = static_cast<unsigned char>(value);
}

/// struct kerneldumpheader, version 4.
std::vector<unsigned char> make_kdh(std::uint64_t length) {
  std::vector<unsigned char> kdh(kdh_size);
  std::memcpy(kdh.data(), "FreeBSD Kernel Dump", 19);
  std::memcpy(kdh.data() + 20, "amd64", 5);
  put(&kdh[32], 4, 4);
  put(&kdh[36], 2, 4);
  put(&kdh[40], length, 8);
  put(&kdh[60], 4096, 4);
  std::memcpy(kdh.data() + 64, "bench", 5);
  std::memcpy(kdh.data() + 320, "made up", 7);
  std::uint32_t parity = 0;
  for (std::size_t i = 0; i < kdh_size; i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, &kdh[i], 4);
    parity ^= word;
  }
  std::memcpy(&kdh[508], &parity, 4);
  return kdh;
}

class Machine {
 public:
  Machine(const Settings& settings, unsigned number, const std::vector<unsigned char>& data)
      : settings_(settings), payload_(settings.mtu - 28 - header_size), data_(data) {
    fd_ = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in from{}, to{};
    from.sin_family = to.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(0x7f400001u + (number / 250 << 8) + number % 250);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(settings.port);
    if (fd_ < 0 || ::bind(fd_, reinterpret_cast<sockaddr*>(&from), sizeof from) != 0 ||
        ::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
      die(fmt::format("a socket: {}", std::strerror(errno)));
    next_batch();
  }

  int fd() const { return fd_; }
  bool done() const { return stage_ == Stage::over; }
  Clock::time_point ended() const { return ended_; }
  Clock::time_point late() const { return late_; }
  std::uint64_t packets() const { return packets_; }
  std::uint64_t again() const { return again_; }

  /// Acks are here, or the time is over.
  void go_on(bool timed_out) {
    std::uint32_t ack = 0;
    while (::recv(fd_, &ack, sizeof ack, 0) == sizeof ack) {
      const std::uint32_t index = ntohl(ack) - first_;
      if (index < count_ && !acked_[index]) {
        acked_[index] = true;
        ++acks_;
      }
    }
    if (acks_ == count_) return next_batch();
    if (!timed_out) return;
    if (++resends_ > resends_max) die("the server does not answer");
    again_ += count_ - acks_;
    send();
  }

 private:
  enum class Stage { herald, data, header, finished, over };

  void next_batch() {
    if (started_) advance();
    started_ = true;
    first_ += count_;
    acked_.reset();
    acks_ = resends_ = 0;
    count_ = 1;
    if (stage_ == Stage::over) {
      ended_ = Clock::now();
      return;
    }
    if (stage_ == Stage::data) {
      const std::size_t most = std::clamp<std::size_t>(batch_bytes / payload_, 1, batch_max);
      const std::uint64_t left = (settings_.bytes - offset_ + payload_ - 1) / payload_;
      count_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(most, left));
      packets_ += count_;
    }
    send();
  }

  void advance() {
    if (stage_ == Stage::data) offset_ += std::uint64_t{count_} * payload_;
    if (stage_ != Stage::data || offset_ >= settings_.bytes)
      stage_ = static_cast<Stage>(static_cast<int>(stage_) + 1);
  }

  /// What is not acknowledged of the batch.
  void send() {
    late_ = Clock::now() + 1s;
    static unsigned char headers[batch_max][header_size];
    iovec parts[batch_max][2];
    mmsghdr messages[batch_max] = {};
    unsigned n = 0;
    for (std::uint32_t i = 0; i < count_; ++i)
      if (!acked_[i]) {
        fill(i, headers[n], parts[n]);
        messages[n].msg_hdr.msg_iov = parts[n];
        messages[n].msg_hdr.msg_iovlen = 2;
        ++n;
      }
    for (unsigned sent = 0; sent < n;) {
      const int now = ::sendmmsg(fd_, messages + sent, n - sent, 0);
      if (now <= 0) return;  // the rest is lost, and comes again
      sent += static_cast<unsigned>(now);
    }
  }

  void fill(std::uint32_t index, unsigned char* header, iovec* parts) {
    std::uint64_t offset = 0;
    std::size_t size = 0;
    std::uint32_t type = herald;
    const unsigned char* body = data_.data();
    if (stage_ == Stage::data) {
      type = vmcore;
      offset = offset_ + std::uint64_t{index} * payload_;
      size = static_cast<std::size_t>(std::min<std::uint64_t>(payload_, settings_.bytes - offset));
      body += offset % (1u << 20);
    } else if (stage_ == Stage::header) {
      type = kernel_dump_header;
      kdh_ = make_kdh(settings_.bytes);
      body = kdh_.data();
      size = kdh_.size();
    } else if (stage_ == Stage::finished) {
      type = finished;
    }
    put(header, type, 4);
    put(header + 4, first_ + index, 4);
    put(header + 8, offset, 8);
    put(header + 16, size, 4);
    put(header + 20, 0, 4);
    parts[0] = {header, header_size};
    parts[1] = {const_cast<unsigned char*>(body), size};
  }

  const Settings& settings_;
  const std::size_t payload_;
  const std::vector<unsigned char>& data_;
  std::vector<unsigned char> kdh_;
  int fd_ = -1;
  Stage stage_ = Stage::herald;
  bool started_ = false;
  std::uint64_t offset_ = 0, packets_ = 0, again_ = 0;
  std::uint32_t first_ = 1, count_ = 0, acks_ = 0;
  unsigned resends_ = 0;
  std::bitset<batch_max> acked_;
  Clock::time_point late_{}, ended_{};
};

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    unsigned value = 0;
    if (!blockloom::parse_whole(argv[i + 1], value))
      die(fmt::format("{} {}: a whole number was expected", name, argv[i + 1]));
    if (name == "--port")
      settings.port = static_cast<std::uint16_t>(value);
    else if (name == "--machines")
      settings.machines = value;
    else if (name == "--mib")
      settings.bytes = std::uint64_t{value} << 20;
    else if (name == "--mtu")
      settings.mtu = value;
    else
      die(fmt::format("{}: --port, --machines, --mib or --mtu was expected", name));
  }
  if (settings.machines == 0 || settings.machines > 10'000 || settings.bytes == 0 ||
      settings.mtu < 576 || settings.mtu > 65535)
    die("a number is out of range");
  return settings;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

int main(int argc, char** argv) {
  const Settings settings = parse(argc, argv);
  std::vector<unsigned char> data((1u << 20) + 65536);
  std::mt19937 random(1);
  std::generate(data.begin(), data.end(), [&] { return static_cast<unsigned char>(random()); });

  const auto began = Clock::now();
  std::vector<Machine> machines;
  machines.reserve(settings.machines);
  for (unsigned i = 0; i < settings.machines; ++i)
    machines.emplace_back(settings, i, data);
  std::vector<pollfd> wait(machines.size());
  for (std::size_t i = 0; i < machines.size(); ++i)
    wait[i] = {machines[i].fd(), POLLIN, 0};
  for (std::size_t open = machines.size(); open > 0;) {
    ::poll(wait.data(), wait.size(), 100);
    const auto now = Clock::now();
    for (std::size_t i = 0; i < machines.size(); ++i) {
      if (machines[i].done()) continue;
      const bool late = now >= machines[i].late();
      if (wait[i].revents != 0 || late) machines[i].go_on(late);
      if (machines[i].done()) {
        wait[i].fd = -1;
        --open;
      }
    }
  }

  std::uint64_t packets = 0, again = 0;
  std::string ends;
  double last = 0;
  for (const Machine& machine : machines) {
    packets += machine.packets();
    again += machine.again();
    const double end = std::chrono::duration<double>(machine.ended() - began).count();
    last = std::max(last, end);
    ends += fmt::format("{}{:.4f}", ends.empty() ? "" : ", ", end);
  }
  const double mib = static_cast<double>(settings.bytes * settings.machines) / (1 << 20);
  fmt::print(
      "{{\"packets\": {}, \"again\": {}, \"seconds\": {:.4f}, \"packets_per_s\": {:.0f}, "
      "\"mib_per_s\": {:.1f}, \"client_cpu_s\": {:.3f}, \"ends\": [{}]}}\n",
      packets, again, last, static_cast<double>(packets) / last, mib / last, cpu_seconds(), ends);
  return 0;
}
