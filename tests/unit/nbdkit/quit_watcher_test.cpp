#include "plugins/nbdkit/quit_watcher.hpp"

#include <chrono>
#include <csignal>
#include <future>

#include <doctest/doctest.h>

using namespace blockloom;
using blockloom::nbd::QuitWatcher;

namespace {

volatile std::sig_atomic_t handled = 0;
void count_signal(int) {
  handled = handled + 1;
}

/// Stands for nbdkit's own handler.
class Handler {
 public:
  explicit Handler(int signal_number) : signal_(signal_number) {
    struct sigaction action {};
    action.sa_handler = count_signal;
    ::sigaction(signal_, &action, &before_);
    handled = 0;
  }
  ~Handler() { ::sigaction(signal_, &before_, nullptr); }

 private:
  int signal_;
  struct sigaction before_ {};
};

void (*current_handler(int signal_number))(int) {
  struct sigaction action {};
  ::sigaction(signal_number, nullptr, &action);
  return action.sa_handler;
}

}  // namespace

TEST_CASE("a quit signal ends what waits, and reaches nbdkit's handler too") {
  const Handler nbdkits(SIGTERM);
  QuitWatcher watcher;
  std::promise<void> ended;
  REQUIRE(watcher.start([&] { ended.set_value(); }));
  ::raise(SIGTERM);
  CHECK(handled == 1);
  CHECK(ended.get_future().wait_for(std::chrono::seconds(60)) == std::future_status::ready);
  watcher.stop();
  CHECK((current_handler(SIGTERM) == count_signal));
}

TEST_CASE("without a signal it stops at once and ends nothing") {
  const Handler nbdkits(SIGTERM);
  QuitWatcher watcher;
  bool ended = false;
  REQUIRE(watcher.start([&] { ended = true; }));
  watcher.stop();
  watcher.stop();
  CHECK_FALSE(ended);
  ::raise(SIGTERM);
  CHECK(handled == 1);
}

TEST_CASE("a signal that nobody handled stays unhandled") {
  const Handler nbdkits(SIGTERM);
  struct sigaction standard {
  }, before{};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGQUIT, &standard, &before);
  QuitWatcher watcher;
  REQUIRE(watcher.start([] {}));
  CHECK((current_handler(SIGQUIT) == SIG_DFL));
  watcher.stop();
  ::sigaction(SIGQUIT, &before, nullptr);
}
