// An nbdkit plugin with bugs on purpose (bug=overflow, leak, undefined, race, none): proves that
// the runtime preloaded into Debian's nbdkit sees what a plugin does.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

std::string bug;
volatile int sink = 0;

int config(const char* key, const char* value) {
  if (std::strcmp(key, "bug") != 0) return -1;
  bug = value;
  return 0;
}

void* open_client(int) {
  return NBDKIT_HANDLE_NOT_NEEDED;
}

std::int64_t get_size(void*) {
  return 4096;
}

void race() {
  int shared = 0;
  std::thread other([&] { ++shared; });
  ++shared;
  other.join();
  sink = shared;
}

int pread(void*, void* buffer, std::uint32_t count, std::uint64_t, std::uint32_t) {
  std::memset(buffer, 0, count);
  if (bug == "race") race();
  if (bug == "undefined") {
    volatile int most = 0x7fffffff;
    sink = most + 1;
  }
  volatile std::size_t at = bug == "overflow" ? 8 : 0;
  auto* bytes = static_cast<char*>(std::calloc(1, 8));
  sink = bytes[at];
  if (bug != "leak") std::free(bytes);
  return 0;
}

nbdkit_plugin make_plugin() {
  nbdkit_plugin made{};
  made.name = "planted";
  made.config = config;
  made.open = open_client;
  made.get_size = get_size;
  made.pread = pread;
  return made;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

extern "C" {
NBDKIT_REGISTER_PLUGIN(plugin)
}
