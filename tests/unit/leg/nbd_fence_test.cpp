// Fences of an NBD leg against a server whose moments the test chooses; with real servers:
// tests/functional/nbd_fence_test.py.
#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <string>
#include <thread>

#include <endian.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/leg/remote_leg.hpp"
#include "tests/unit/leg/leg_test.hpp"
#include "tests/unit/leg/remote_test.hpp"

using namespace blockloom;
using test::fence;

namespace {

constexpr std::uint32_t option_go = 7, reply_ack = 1, reply_info = 3,
                        reply_unsupported = 1U << 31 | 1;
constexpr std::size_t request_bytes = 28;

/// A foreign NBD server (it opens every name) that hangs up when a write comes, without an answer.
class HangingUp {
 public:
  explicit HangingUp(const std::string& path) : listener_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(listener_, 8) == 0);
    thread_ = std::thread([this] {
      for (int fd = -1; (fd = accept(listener_, nullptr, nullptr)) >= 0; close(fd))
        serve(fd);
    });
  }
  ~HangingUp() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

 private:
  static bool take(int fd, void* data, std::size_t length) {
    return length == 0 || recv(fd, data, length, MSG_WAITALL) == static_cast<ssize_t>(length);
  }
  template <class Number>
  static void put(std::string& text, Number value) {
    for (std::size_t i = sizeof value; i-- > 0;)
      text += static_cast<char>(value >> (8 * i) & 0xff);
  }
  static void say(int fd, const std::string& text) {
    static_cast<void>(!send(fd, text.data(), text.size(), MSG_NOSIGNAL));
  }
  static void answer(int fd, std::uint32_t option, std::uint32_t kind, const std::string& data) {
    std::string text;
    put(text, std::uint64_t{0x3e889045565a9});
    put(text, option);
    put(text, kind);
    put(text, static_cast<std::uint32_t>(data.size()));
    say(fd, text + data);
  }

  static void serve(int fd) {
    std::string greeting = "NBDMAGICIHAVEOPT";
    put(greeting, std::uint16_t{3});
    say(fd, greeting);
    std::uint32_t flags = 0, option = 0;
    if (!take(fd, &flags, sizeof flags)) return;
    while (option != option_go) {
      std::uint32_t head[4];  // magic, option, length
      if (!take(fd, head, sizeof head)) return;
      option = be32toh(head[2]);
      std::string data(be32toh(head[3]), '\0');
      if (!take(fd, data.data(), data.size())) return;
      if (option != option_go) {
        answer(fd, option, reply_unsupported, {});
        continue;
      }
      std::string info;
      put(info, std::uint16_t{0});
      put(info, std::uint64_t{1 << 20});
      put(info, std::uint16_t{1});
      answer(fd, option, reply_info, info);
      answer(fd, option, reply_ack, {});
    }
    char request[request_bytes];
    take(fd, request, sizeof request);  // a write, a goodbye, or the end: all are the end
  }

  const int listener_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("a fence that is asked for by the very write whose end is unknown proves nothing") {
  test::TempDir folder;
  HangingUp server(folder / "nbd.sock");
  LegContext context;
  auto opened = open_leg("nbd+unix:///?socket=" + folder / "nbd.sock", false, context);
  REQUIRE(opened);
  Leg& leg = **opened;
  RemoteLeg& remote = *leg.remote();
  test::Listener listener;
  REQUIRE(remote.take_control(listener));
  REQUIRE(fence(remote, 1) == Proof::given);
  std::promise<Errc> up;
  remote.open_session(1, Clock::now() + std::chrono::seconds(20),
                      [&](Result<void> r) { up.set_value(r.code()); });
  REQUIRE(up.get_future().get() == Errc::ok);

  struct Write {
    Io io;
    RemoteLeg& remote;
    std::promise<FenceResult> fenced{};
  } write{{}, remote};
  test::Data data = test::noise(4096);
  write.io.op = Op::write;
  write.io.length = Bytes(data.size());
  write.io.data = data.data();
  write.io.owner = &write;
  write.io.complete = [](Io& io) noexcept {
    auto& self = *static_cast<Write*>(io.owner);
    self.remote.fence(2, FenceScope::own, Clock::now() + std::chrono::seconds(20),
                      [&self](FenceResult r) { self.fenced.set_value(std::move(r)); });
    // The fence looks while this thread has not told of the link's end yet.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  };
  REQUIRE(leg.submit(write.io) == Submit::pending);
  const FenceResult result = write.fenced.get_future().get();
  CHECK(write.io.status == end_unknown);
  CHECK(result.proof == Proof::impossible);
  remote.release();
}
