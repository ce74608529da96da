#include "server/dump/stream_tls.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <asio/ssl/context.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "proto/text/number.hpp"
#include "server/base/unique_fd.hpp"
#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t psk_file_max = 1u << 20;
constexpr std::size_t key_min = 16, key_max = PSK_MAX_PSK_LEN;

using Key = std::vector<unsigned char>;
using Keys = std::map<std::string, Key, std::less<>>;

/// Hexadecimal; empty: it is not, or of no good length.
Key parse_key(std::string_view text) {
  Key key;
  if (text.size() % 2 != 0 || text.size() < 2 * key_min || text.size() > 2 * key_max) return key;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) return {};
    key.push_back(static_cast<unsigned char>(high << 4 | low));
  }
  return key;
}

/// psktool's file: USER:KEY, a line each. Messages never show a key.
Result<Keys> read_keys(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return system_error("dump.tls.psk: " + path, errno);
  auto text = read_up_to(fd.get(), psk_file_max);
  if (!text) return Error{text.code(), "dump.tls.psk: " + text.error().message};
  Keys keys;
  std::string_view rest = *text;
  for (unsigned number = 1; !rest.empty(); ++number) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty() || line.front() == '#') continue;
    const std::size_t colon = line.find(':');
    const Key key = colon == std::string_view::npos ? Key{} : parse_key(line.substr(colon + 1));
    if (key.empty() || colon == 0 || colon > PSK_MAX_IDENTITY_LEN)
      return Error{Errc::invalid,
                   fmt::format("dump.tls.psk: {}:{}: expected USER:KEY, the key in hexadecimal, of "
                               "{} to {} bytes, as psktool makes it",
                               path, number, key_min, key_max)};
    keys.insert_or_assign(std::string(line.substr(0, colon)), key);
  }
  OPENSSL_cleanse(text->data(), text->size());
  if (keys.empty())
    return Error{Errc::invalid, fmt::format("dump.tls.psk: {} holds no key: expected a line "
                                            "USER:KEY for each sender",
                                            path)};
  return keys;
}

class Tls final : public StreamTls {
 public:
  explicit Tls(bool required) : required_(required), context_(asio::ssl::context::tls_server) {}
  ~Tls() override {
    for (auto& [user, key] : keys_)
      OPENSSL_cleanse(key.data(), key.size());
  }

  Result<void> read(const TlsOptions& options);
  asio::ssl::context& context() noexcept override { return context_; }
  bool required() const noexcept override { return required_; }

 private:
  static int slot() {
    static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
  }
  static unsigned find_key(SSL* ssl, const char* user, unsigned char* key, unsigned size);
  Result<void> read_certificates(const TlsOptions& options);

  const bool required_;
  Keys keys_;
  asio::ssl::context context_;
};

/// Of the connection that says it is this user; 0: no key, and the handshake fails.
unsigned Tls::find_key(SSL* ssl, const char* user, unsigned char* key, unsigned size) {
  const auto* tls = static_cast<const Tls*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), slot()));
  if (tls == nullptr || user == nullptr) return 0;
  const auto found = tls->keys_.find(std::string_view(user));
  if (found == tls->keys_.end() || found->second.size() > size) return 0;
  std::memcpy(key, found->second.data(), found->second.size());
  return static_cast<unsigned>(found->second.size());
}

Result<void> Tls::read(const TlsOptions& options) {
  SSL_CTX* const native = context_.native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION);
  // A dump's sessions are long and few: nothing of them is kept for the next.
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(native, 0);
  if (options.psk.empty()) return read_certificates(options);
  auto keys = read_keys(options.psk);
  if (!keys) return keys.error();
  keys_ = std::move(*keys);
  SSL_CTX_set_ex_data(native, slot(), this);
  SSL_CTX_set_psk_server_callback(native, &find_key);
  return {};
}

Result<void> Tls::read_certificates(const TlsOptions& options) {
  const auto file = [&](const char* name) { return options.certificates + "/" + name; };
  asio::error_code error;
  const auto failed = [&](const char* name) {
    return Error{Errc::invalid,
                 fmt::format("dump.tls.certificates: {}: {}", file(name), error.message())};
  };
  context_.use_certificate_chain_file(file("server-cert.pem"), error);
  if (error) return failed("server-cert.pem");
  context_.use_private_key_file(file("server-key.pem"), asio::ssl::context::pem, error);
  if (error) return failed("server-key.pem");
  if (!options.verify_peer) return {};
  context_.load_verify_file(file("ca-cert.pem"), error);
  if (error) return failed("ca-cert.pem");
  context_.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, error);
  if (error) return failed("ca-cert.pem");
  return {};
}

}  // namespace

Result<std::shared_ptr<StreamTls>> StreamTls::load(const TlsOptions& options) {
  if (options.mode == TlsOptions::Mode::off) return std::shared_ptr<StreamTls>();
  auto tls = std::make_shared<Tls>(options.mode == TlsOptions::Mode::require);
  if (auto read = tls->read(options); !read) return read.error();
  return std::shared_ptr<StreamTls>(std::move(tls));
}

}  // namespace blockloom::dump
