// blockloom-dump send: the dmesg, then the image, until the server has it all.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include "clients/blockloom-dump/hello.hpp"
#include "clients/blockloom-dump/link.hpp"
#include "clients/blockloom-dump/options.hpp"
#include "clients/blockloom-dump/source.hpp"
#include "clients/blockloom-dump/sums.hpp"
#include "clients/blockloom-dump/util.hpp"
#include "proto/dump/sha256.hpp"

namespace blockloom::sender {
namespace {

constexpr int connect_ms = 10'000, answer_ms = 60'000, done_ms = 600'000;
constexpr int retry_first_ms = 1000, retry_most_ms = 10'000;
constexpr std::int64_t progress_ms = 5000, ping_ms = 30'000;

bool all_zero(const unsigned char* bytes, std::size_t size) {
  return size > 0 && bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0;
}

class Sender {
 public:
  explicit Sender(SendOptions& options) : options_(options) {}
  int run();

 private:
  enum class Step { again, done, failed };

  Step attempt();
  Step greet();
  Step start_tls(const wire::Header& greeting);
  Step hear_welcome();
  Step refused(const wire::Header& header);
  Step finished(const wire::Header& header);
  Step send_dmesg();
  Step send_data();
  Step send_chunk();
  Step flush_zeros();
  Step hear(int timeout_ms);
  Step wait_for_input();
  Step send_end();
  void show(bool last);

  SendOptions& options_;
  Source source_;
  Sums sums_;
  Link link_;
  char session_[33] = {};
  std::uint64_t offset_ = 0, acked_ = 0;
  std::uint64_t zeros_from_ = 0, zeros_ = 0;
  std::uint32_t zero_crc_ = 0;
  bool ended_ = false, has_text_ = false;
  std::int64_t last_progress_ = 0, shown_at_ = 0, started_ = 0;
  std::uint64_t shown_offset_ = 0;
  int exit_ = exit_failed;
};

int Sender::run() {
  unsigned char random[16];
  if (::getrandom(random, sizeof random, 0) != static_cast<ssize_t>(sizeof random)) {
    // No randomness this early: the time and the boot tell two dumps apart.
    std::memset(random, 0, sizeof random);
    wire::put(random, static_cast<std::uint64_t>(now_ms()), 8);
    wire::put(random + 8, static_cast<std::uint64_t>(::getpid()), 8);
  }
  dump::to_hex(random, sizeof random, session_);
  if (options_.window == 0)
    options_.window = std::strcmp(options_.image, "-") == 0 ? 8u << 20 : 64u << 20;
  const auto chunk = static_cast<std::uint32_t>(options_.chunk);
  if (!source_.open(options_.image, chunk, options_.window)) return exit_failed;
  last_progress_ = started_ = shown_at_ = now_ms();
  int pause = retry_first_ms;
  for (;;) {
    const std::uint64_t acked = acked_;
    const Step step = attempt();
    if (step != Step::again) {
      show(true);
      return exit_;
    }
    link_.close();
    if (acked_ > acked) pause = retry_first_ms;
    if (now_ms() - last_progress_ > options_.deadline_s * 1000) {
      say("no progress for %lld s: given up", static_cast<long long>(options_.deadline_s));
      return exit_deadline;
    }
    ::poll(nullptr, 0, pause);
    pause = pause * 2 < retry_most_ms ? pause * 2 : retry_most_ms;
  }
}

Sender::Step Sender::attempt() {
  const char* why = "";
  if (!link_.connect(options_.server, options_.port, connect_ms, &why)) {
    say("%s port %s: %s", options_.server, options_.port, why);
    return Step::again;
  }
  Step step = greet();
  if (step == Step::again && link_.connected()) step = hear_welcome();
  if (step != Step::again || !link_.connected()) return step;
  if (!has_text_) step = send_dmesg();
  if (step == Step::again && link_.connected()) step = send_data();
  return step;
}

/// Step::again with the link open means: go on.
Sender::Step Sender::greet() {
  wire::Header header;
  if (link_.receive(header, answer_ms) != Link::Got::frame || header.type != wire::greeting) {
    say("%s port %s: no greeting: is it Blockloom's stream port?", options_.server, options_.port);
    link_.close();
    return Step::again;
  }
  if (options_.tls.wanted() && !link_.encrypted()) return start_tls(header);
  char nonce[80];
  find_line(link_.body(), header.length, "nonce", nonce, sizeof nonce);
  Text<wire::text_max> hello;
  write_hello(hello, options_, session_, nonce, source_);
  if (!link_.send(wire::hello, 0, hello.get(), hello.size())) link_.close();
  return Step::again;
}

/// What the server said so far could be anybody's: it greets again.
Sender::Step Sender::start_tls(const wire::Header& greeting) {
  char offered[16] = {};
  const char* why = "the server has no TLS";
  find_line(link_.body(), greeting.length, "tls", offered, sizeof offered);
  const bool can = std::strcmp(offered, "on") == 0 || std::strcmp(offered, "require") == 0;
  if (can && link_.send(wire::start_tls, 0, nullptr, 0) &&
      link_.start_tls(options_.tls, options_.server, connect_ms, &why))
    return greet();
  // It may be the network that answers for it: it is tried again, and never without TLS.
  say("%s port %s: %s", options_.server, options_.port, why);
  link_.close();
  return Step::again;
}

Sender::Step Sender::hear_welcome() {
  wire::Header header;
  if (link_.receive(header, answer_ms) != Link::Got::frame) {
    link_.close();
    return Step::again;
  }
  if (header.type == wire::refuse) return refused(header);
  if (header.type == wire::done) return finished(header);
  if (header.type != wire::welcome) {
    link_.close();
    return Step::again;
  }
  char value[80];
  find_line(link_.body(), header.length, "chunk", value, sizeof value);
  std::uint64_t chunk = 0;
  if (!parse_number(value, chunk) || chunk != options_.chunk || header.offset % chunk != 0) {
    say("the server asks for chunks of '%s' from %llu: not what was offered", value,
        static_cast<unsigned long long>(header.offset));
    return Step::failed;
  }
  has_text_ =
      find_line(link_.body(), header.length, "text", value, sizeof value) && value[0] == '1';
  find_line(link_.body(), header.length, "id", value, sizeof value);
  if (header.offset != 0)
    say("dump %s goes on at %llu", value, static_cast<unsigned long long>(header.offset));
  else
    say("dump %s", value);
  offset_ = acked_ = header.offset;
  source_.forget(acked_);
  zeros_ = 0;
  last_progress_ = now_ms();
  return Step::again;
}

Sender::Step Sender::refused(const wire::Header& header) {
  char message[256], retry[4];
  find_line(link_.body(), header.length, "message", message, sizeof message);
  find_line(link_.body(), header.length, "retry", retry, sizeof retry);
  say("the server refuses: %s", message);
  link_.close();
  exit_ = exit_refused;
  return retry[0] == '1' ? Step::again : Step::failed;
}

Sender::Step Sender::finished(const wire::Header& header) {
  char state[32], message[256], id[128];
  find_line(link_.body(), header.length, "state", state, sizeof state);
  find_line(link_.body(), header.length, "message", message, sizeof message);
  find_line(link_.body(), header.length, "id", id, sizeof id);
  say("dump %s is %s%s%s", id, state, message[0] != 0 ? ": " : "", message);
  exit_ = std::strcmp(state, "complete") == 0 ? exit_ok : exit_incomplete;
  return Step::done;
}

Sender::Step Sender::send_dmesg() {
  if (options_.dmesg == nullptr || std::strcmp(options_.dmesg, "-") == 0) return Step::again;
  const int fd = ::open(options_.dmesg, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    say("%s: %s: sent without it", options_.dmesg, std::strerror(errno));
    return Step::again;
  }
  static unsigned char piece[wire::dmesg_piece_max];
  std::uint64_t at = 0;
  bool sent = true;
  for (ssize_t n; sent && at < wire::dmesg_max && (n = ::read(fd, piece, sizeof piece)) > 0;
       at += static_cast<std::uint64_t>(n))
    sent = link_.send(wire::text, at, piece, static_cast<std::size_t>(n));
  ::close(fd);
  if (!sent || !link_.send(wire::text_end, at, nullptr, 0)) link_.close();
  return Step::again;
}

/// What the server says while the image goes out.
Sender::Step Sender::hear(int timeout_ms) {
  wire::Header header;
  switch (link_.receive(header, timeout_ms)) {
    case Link::Got::nothing:
      return Step::again;
    case Link::Got::broken:
      link_.close();
      return Step::again;
    case Link::Got::frame:
      break;
  }
  if (header.type == wire::refuse) return refused(header);
  if (header.type == wire::done) return finished(header);
  if (header.type == wire::ack && header.offset > acked_ && header.offset <= offset_) {
    acked_ = header.offset;
    source_.forget(acked_);
    last_progress_ = now_ms();
  }
  return Step::again;
}

/// Before a pipe is read: acks are heard, and the server is told that we live.
Sender::Step Sender::wait_for_input() {
  std::int64_t pinged = now_ms();
  for (;;) {
    pollfd wait[2] = {{0, POLLIN, 0}, {link_.fd(), POLLIN, 0}};
    const int n = ::poll(wait, 2, link_.pending() ? 0 : 1000);
    if (link_.pending() || (n > 0 && wait[1].revents != 0)) {
      const Step step = hear(0);
      if (step != Step::again || !link_.connected()) return step;
    }
    if (n > 0 && wait[0].revents != 0) return Step::again;
    if (now_ms() - pinged < ping_ms) continue;
    pinged = now_ms();
    if (!link_.send(wire::ping, 0, nullptr, 0)) {
      link_.close();
      return Step::again;
    }
  }
}

Sender::Step Sender::flush_zeros() {
  if (zeros_ == 0) return Step::again;
  unsigned char length[8];
  wire::put(length, zeros_, 8);
  if (!link_.send(wire::zero, zeros_from_, length, sizeof length)) link_.close();
  zeros_ = 0;
  return Step::again;
}

Sender::Step Sender::send_chunk() {
  const unsigned char* bytes = nullptr;
  std::size_t size = 0;
  if (!source_.read(offset_, &bytes, size)) {
    flush_zeros();
    if (link_.connected()) link_.send(wire::abort, offset_, "message=it cannot be read\n", 26);
    exit_ = exit_failed;
    wire::Header header;
    while (link_.connected() && link_.receive(header, answer_ms) == Link::Got::frame &&
           header.type != wire::done) {
    }
    return Step::failed;
  }
  const std::uint64_t index = offset_ / options_.chunk;
  if (size == 0) {
    ended_ = true;
    return flush_zeros();
  }
  const bool zero = size == options_.chunk && all_zero(bytes, size);
  if (zero && zero_crc_ == 0) zero_crc_ = dump::crc32c(0, bytes, size);
  const std::uint32_t crc = zero ? zero_crc_ : dump::crc32c(0, bytes, size);
  if (!sums_.set(index, crc)) {
    say("no memory left for the digest");
    return Step::failed;
  }
  constexpr std::uint64_t zeros_most = std::uint64_t{1} << 30;
  if (zero && zeros_ < zeros_most) {
    if (zeros_ == 0) zeros_from_ = offset_;
    zeros_ += size;
  } else {
    flush_zeros();
    if (!link_.connected() || !link_.send(wire::data, offset_, bytes, size, crc)) link_.close();
  }
  offset_ += size;
  if (size < options_.chunk) ended_ = true;
  return Step::again;
}

Sender::Step Sender::send_data() {
  ended_ = false;
  while (link_.connected() && !ended_) {
    const bool window_full = offset_ - acked_ >= source_.window() || source_.full();
    if (window_full && zeros_ > 0) flush_zeros();
    // Acks are taken as they come; with a full window they are waited for.
    Step step = hear(window_full ? answer_ms : 0);
    if (step != Step::again || !link_.connected()) return step;
    if (offset_ - acked_ >= source_.window() || source_.full()) {
      if (now_ms() - last_progress_ > answer_ms) link_.close();
      continue;
    }
    if (source_.pipe()) step = wait_for_input();
    if (step != Step::again || !link_.connected()) return step;
    step = send_chunk();
    if (step != Step::again) return step;
    show(false);
  }
  if (!link_.connected()) return Step::again;
  return send_end();
}

Sender::Step Sender::send_end() {
  unsigned char digest[wire::digest_size];
  sums_.digest(offset_, digest);
  if (!link_.send(wire::end, offset_, digest, sizeof digest)) {
    link_.close();
    return Step::again;
  }
  const std::int64_t until = now_ms() + done_ms;
  while (link_.connected() && now_ms() < until) {
    const Step step = hear(1000);
    if (step != Step::again) return step;
  }
  link_.close();
  return Step::again;
}

void Sender::show(bool last) {
  if (options_.quiet) return;
  const std::int64_t now = now_ms();
  if (!last && now - shown_at_ < progress_ms) return;
  const double seconds = static_cast<double>(last ? now - started_ : now - shown_at_) / 1000;
  const double bytes = static_cast<double>(last ? offset_ : offset_ - shown_offset_);
  const double mib = 1024.0 * 1024.0;
  char share[16] = "";
  if (source_.size() != 0)
    std::snprintf(share, sizeof share, ", %.0f %%",
                  100.0 * static_cast<double>(offset_) / static_cast<double>(source_.size()));
  say("%.1f MiB%s, %.1f MiB/s", static_cast<double>(offset_) / mib, share,
      seconds > 0 ? bytes / mib / seconds : 0.0);
  shown_at_ = now;
  shown_offset_ = offset_;
}

}  // namespace

int send_image(SendOptions& options) {
  Sender* const sender = static_cast<Sender*>(std::malloc(sizeof(Sender)));
  if (sender == nullptr) return exit_failed;
  const int exit = (new (sender) Sender(options))->run();
  sender->~Sender();
  std::free(sender);
  return exit;
}

}  // namespace blockloom::sender
