#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom {

/// What an iSCSI leg's URI says:
///   iscsi://[USER[%PASSWORD]@]HOST[:PORT]/TARGET/LUN[?KEY=VALUE[&KEY=VALUE…]]
struct IscsiUri {
  std::string host;  ///< a name or an address; IPv6 without its brackets
  std::uint16_t port = 3260;
  std::string target;     ///< its iSCSI name: iqn.…, eui.… or naa.…
  std::uint16_t lun = 0;  ///< up to 16383

  std::string initiator;    ///< our iSCSI name; empty: the default
  std::string user;         ///< CHAP; empty: none
  std::string password;     ///< as given in the URI, or read by read_passwords()
  std::string target_user;  ///< mutual CHAP; empty: none
  std::string target_password;
  std::string password_file, target_password_file;
  std::string chap = "sha3-256,sha1,md5";  ///< the algorithms that are offered, in this order

  bool header_digest = false;
  bool data_digest = false;
  unsigned queue_depth = 64;  ///< commands in flight
  Duration timeout = std::chrono::seconds(30);
  Duration login_timeout = std::chrono::seconds(5);
  Duration keepalive = std::chrono::seconds(5);
};

/// Opens nothing. Errors never show a password.
Result<IscsiUri> parse_iscsi_uri(std::string_view uri);

/// Reads the password files that the URI names.
Result<void> read_passwords(IscsiUri& uri);

/// "HOST:PORT" as messages show it.
std::string portal_text(const IscsiUri& uri);

}  // namespace blockloom
