// Of the program without libraries.
#include <cerrno>

#include "clients/blockloom-dump/tls.hpp"

namespace blockloom::sender {

const bool Tls::built_in = false;

bool Tls::start(int, const TlsKeys&, const char*, int, const char** why) {
  *why = "this program is built without TLS; blockloom-dump-tls has it";
  return false;
}
void Tls::end() {}
long Tls::write(const void*, std::size_t) {
  errno = ENOSYS;
  return -1;
}
long Tls::read(void*, std::size_t) {
  errno = ENOSYS;
  return -1;
}
bool Tls::pending() const {
  return false;
}

}  // namespace blockloom::sender
