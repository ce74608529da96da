#pragma once

#include <memory>

#include "server/base/error.hpp"
#include "server/dump/options.hpp"

namespace asio::ssl {
class context;
}

namespace blockloom::dump {

/// The keys of the stream's TLS, read once; TLS 1.3 alone.
class StreamTls {
 public:
  /// Reads the files; null where TLS is off. Errors name the file.
  static Result<std::shared_ptr<StreamTls>> load(const TlsOptions& options);
  virtual ~StreamTls() = default;

  virtual asio::ssl::context& context() noexcept = 0;
  /// A sender that does not ask for TLS is refused.
  virtual bool required() const noexcept = 0;
};

}  // namespace blockloom::dump
