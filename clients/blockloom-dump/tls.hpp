#pragma once

#include <cstddef>

namespace blockloom::sender {

/// What the server is known by, and what this machine is known by to it. Null: not given.
struct TlsKeys {
  const char* psk = nullptr;  ///< a file; its first line is USER:KEY
  const char* certificates =
      nullptr;                 ///< a folder with ca-cert.pem; client-cert.pem, client-key.pem
  const char* name = nullptr;  ///< what the server's certificate is for; null: its address

  bool wanted() const { return psk != nullptr || certificates != nullptr; }
};

/// TLS over a connected socket that does not block. tls_openssl.cpp has it; tls_none.cpp, for the
/// program without libraries, has none.
class Tls {
 public:
  static const bool built_in;

  Tls() = default;
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;
  ~Tls() { end(); }

  /// The handshake. False, and `why` says so.
  bool start(int fd, const TlsKeys& keys, const char* server, int timeout_ms, const char** why);
  void end();
  bool active() const { return session_ != nullptr; }

  /// As send() and recv() of a socket that does not block; on EAGAIN wants() is what to poll for.
  long write(const void* bytes, std::size_t size);
  long read(void* bytes, std::size_t size);
  short wants() const { return wants_; }
  /// Bytes are here that no poll() tells of.
  bool pending() const;

 private:
  long result(int done);
  bool prepare(const TlsKeys& keys, const char* server, const char** why);

  void* context_ = nullptr;
  void* session_ = nullptr;
  short wants_ = 0;
};

}  // namespace blockloom::sender
