#include "plugins/nbdkit/socket_hooks.hpp"

#include <atomic>
#include <cerrno>
#include <ctime>

#include <sys/socket.h>

namespace blockloom::nbd {
namespace {

/// Long for a thread between a check and a send, short for a connection that ends.
constexpr timespec moment{0, 50'000'000};

ClientStreams* streams = nullptr;  // of the hooks that are installed
/// A connection closes last of all: whoever reads this sees what its thread did before.
std::atomic<unsigned> closed{0};

ssize_t hooked_read(int fd, void* data, std::size_t length) {
  return streams->receive(fd, data, length);
}

ssize_t hooked_send(int fd, const void* data, std::size_t length, int flags) {
  return streams->send(fd, data, length, flags);
}

int hooked_close(int fd) {
  const int result = streams->close(fd);
  closed.fetch_add(1, std::memory_order_release);
  return result;
}

int hooked_shutdown(int fd, int how) {
  const int result = ::shutdown(fd, how);
  const int saved = errno;
  ::nanosleep(&moment, nullptr);
  errno = saved;
  return result;
}

}  // namespace

bool SocketHooks::install() noexcept {
  if (streams) return false;
  imports_ = {Import{"read", reinterpret_cast<void*>(hooked_read)},
              Import{"send", reinterpret_cast<void*>(hooked_send)},
              Import{"shutdown", reinterpret_cast<void*>(hooked_shutdown)},
              Import{"close", reinterpret_cast<void*>(hooked_close)}};
  streams = &streams_;
  installed_ = replace_imports(imports_);
  if (!installed_) streams = nullptr;
  return installed_;
}

void SocketHooks::remove() noexcept {
  if (!installed_) return;
  installed_ = false;
  restore_imports(imports_);
  // nbdkit has waited for the connections, in words that only it knows.
  closed.load(std::memory_order_acquire);
  streams = nullptr;
}

}  // namespace blockloom::nbd
