#include "server/leg/storage_name.hpp"

#include <fmt/format.h>

#include "server/leg/iscsi_uri.hpp"
#include "server/leg/nbd_uri.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {

std::string storage_name(std::string_view uri) {
  constexpr std::string_view file = "file://";
  std::string_view rules, inner;
  if (split_fault_uri(uri, rules, inner))
    return fmt::format("fault:[{}]:{}", rules, storage_name(inner));
  if (is_nbd_uri(uri)) {
    auto nbd = parse_nbd_uri(uri);
    return nbd ? fmt::format("{}/{}", nbd->server(), nbd->export_name) : std::string(uri);
  }
  if (uri.starts_with("iscsi:")) {
    auto iscsi = parse_iscsi_uri(uri);
    return iscsi ? fmt::format("iscsi://{}/{}/{}", portal_text(*iscsi), iscsi->target, iscsi->lun)
                 : public_uri(uri);
  }
  if (uri.starts_with(file)) {
    auto path = percent_decode(uri.substr(file.size()));
    if (path) return std::move(*path);
  }
  return std::string(uri);
}

}  // namespace blockloom
