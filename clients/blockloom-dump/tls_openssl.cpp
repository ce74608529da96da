#include <cerrno>
#include <cstdio>
#include <cstring>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>

#include "clients/blockloom-dump/tls.hpp"
#include "clients/blockloom-dump/util.hpp"
#include "proto/text/number.hpp"

namespace blockloom::sender {
namespace {

constexpr std::size_t key_max = 64, user_max = 128;

// Of the one key that a process has.
char psk_user[user_max + 1];
unsigned char psk_key[key_max];
unsigned psk_size = 0;

SSL_CTX* context_of(void* context) {
  return static_cast<SSL_CTX*>(context);
}
SSL* session_of(void* session) {
  return static_cast<SSL*>(session);
}

/// USER:KEY, the key in hexadecimal.
bool read_key(const char* path) {
  char line[user_max + 2 * key_max + 3];
  read_line(path, line, sizeof line);
  char* const colon = std::strchr(line, ':');
  if (colon == nullptr || colon == line || colon - line > static_cast<std::ptrdiff_t>(user_max))
    return false;
  *colon = 0;
  std::memcpy(psk_user, line, static_cast<std::size_t>(colon - line) + 1);
  const char* hex = colon + 1;
  for (psk_size = 0; *hex != 0; hex += 2) {
    const int high = hex_digit(hex[0]), low = high < 0 ? -1 : hex_digit(hex[1]);
    if (low < 0 || psk_size == key_max) return false;
    psk_key[psk_size++] = static_cast<unsigned char>(high << 4 | low);
  }
  OPENSSL_cleanse(line, sizeof line);
  return psk_size >= 16;
}

unsigned give_key(SSL*, const char*, char* identity, unsigned identity_max, unsigned char* psk,
                  unsigned psk_max) {
  if (std::strlen(psk_user) + 1 > identity_max || psk_size > psk_max) return 0;
  std::memcpy(identity, psk_user, std::strlen(psk_user) + 1);
  std::memcpy(psk, psk_key, psk_size);
  return psk_size;
}

const char* last_reason(const char* otherwise) {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason != nullptr ? reason : otherwise;
}

bool use_certificates(SSL_CTX* context, const char* folder, const char** why) {
  char path[4096];
  std::snprintf(path, sizeof path, "%s/ca-cert.pem", folder);
  if (SSL_CTX_load_verify_locations(context, path, nullptr) != 1) {
    *why = "TLS: ca-cert.pem cannot be used";
    return false;
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  std::snprintf(path, sizeof path, "%s/client-cert.pem", folder);
  std::FILE* const own = std::fopen(path, "re");
  if (own == nullptr) return true;  // the server may not want to know who we are
  std::fclose(own);
  bool good = SSL_CTX_use_certificate_chain_file(context, path) == 1;
  std::snprintf(path, sizeof path, "%s/client-key.pem", folder);
  good = good && SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) == 1;
  if (!good) *why = "TLS: client-cert.pem and client-key.pem cannot be used";
  return good;
}

}  // namespace

const bool Tls::built_in = true;

bool Tls::prepare(const TlsKeys& keys, const char* server, const char** why) {
  if (context_ == nullptr) {
    SSL_CTX* const made = SSL_CTX_new(TLS_client_method());
    context_ = made;
    if (made == nullptr) {
      *why = "TLS: no memory";
      return false;
    }
    SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION);
    SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    bool good = true;
    if (keys.psk != nullptr) {
      good = read_key(keys.psk);
      if (!good) *why = "TLS: the file of the key does not begin with USER:KEY";
      SSL_CTX_set_psk_client_callback(made, give_key);
      // A server that shows a certificate instead of knowing the key is not ours.
      SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nullptr);
    } else {
      good = use_certificates(made, keys.certificates, why);
    }
    if (!good) {
      SSL_CTX_free(made);
      context_ = nullptr;
      return false;
    }
  }
  SSL* const session = SSL_new(context_of(context_));
  session_ = session;
  if (session == nullptr) {
    *why = "TLS: no memory";
    return false;
  }
  if (keys.psk == nullptr) {
    X509_VERIFY_PARAM* const param = SSL_get0_param(session);
    const bool good = keys.name != nullptr ? X509_VERIFY_PARAM_set1_host(param, keys.name, 0) == 1
                                           : X509_VERIFY_PARAM_set1_ip_asc(param, server) == 1;
    if (!good) {
      *why = "TLS: that is no name of a server";
      return false;
    }
  }
  return true;
}

bool Tls::start(int fd, const TlsKeys& keys, const char* server, int timeout_ms, const char** why) {
  ERR_clear_error();
  if (!prepare(keys, server, why) || SSL_set_fd(session_of(session_), fd) != 1) {
    end();
    return false;
  }
  const std::int64_t until = now_ms() + timeout_ms;
  for (;;) {
    errno = 0;
    if (result(SSL_connect(session_of(session_))) > 0) return true;
    const std::int64_t left = until - now_ms();
    if (errno != EAGAIN || left <= 0) {
      *why = errno == EAGAIN ? "TLS: no answer" : last_reason("TLS: the server hung up");
      end();
      return false;
    }
    pollfd wait{fd, wants_, 0};
    ::poll(&wait, 1, static_cast<int>(left));
  }
}

void Tls::end() {
  if (session_ != nullptr) SSL_free(session_of(session_));
  session_ = nullptr;
}

/// What a call of OpenSSL did, as the socket's call would say it.
long Tls::result(int done) {
  if (done > 0) return done;
  switch (SSL_get_error(session_of(session_), done)) {
    case SSL_ERROR_WANT_READ:
      wants_ = POLLIN;
      errno = EAGAIN;
      return -1;
    case SSL_ERROR_WANT_WRITE:
      wants_ = POLLOUT;
      errno = EAGAIN;
      return -1;
    case SSL_ERROR_ZERO_RETURN:
      return 0;
    default:
      errno = ECONNRESET;
      return -1;
  }
}

long Tls::write(const void* bytes, std::size_t size) {
  constexpr std::size_t most = 1u << 30;
  ERR_clear_error();
  return result(
      SSL_write(session_of(session_), bytes, static_cast<int>(size < most ? size : most)));
}

long Tls::read(void* bytes, std::size_t size) {
  ERR_clear_error();
  return result(SSL_read(session_of(session_), bytes, static_cast<int>(size)));
}

bool Tls::pending() const {
  return session_ != nullptr && SSL_pending(session_of(session_)) > 0;
}

}  // namespace blockloom::sender
