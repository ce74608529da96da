#include <vector>

#include <fmt/format.h>

#include "server/leg/fault_leg.hpp"
#include "server/leg/file_leg.hpp"
#include "server/leg/iscsi_leg.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/memory_leg.hpp"
#include "server/leg/nbd_leg.hpp"
#include "server/leg/nbd_uri.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

constexpr std::size_t max_uri = 64 * 1024;
constexpr std::size_t max_wrappers = 8;
constexpr std::string_view device_scheme = "dev:";

Result<std::shared_ptr<Leg>> open_device(std::string_view uri, bool read_only,
                                         LegContext& context) {
  if (context.devices == nullptr)
    return Error{Errc::not_supported,
                 fmt::format("leg {}: other devices cannot be used here", quoted(uri))};
  return context.devices->open_device(uri.substr(device_scheme.size()), read_only);
}

Error unknown(std::string_view uri) {
  const auto colon = uri.find(':');
  if (uri.starts_with("fault:"))
    return {Errc::invalid,
            fmt::format("leg {}: expected fault:[RULES]:URI, such as fault:[read=error]:/path",
                        quoted(uri))};
  if (colon == uri.npos || uri.find('/') < colon)
    return {Errc::invalid,
            fmt::format("leg {}: expected an absolute path, or a URI that starts with file://, "
                        "mem:, dev:, fault:, nbd:// or iscsi://",
                        quoted(uri))};
  return {Errc::not_supported,
          fmt::format("leg {}: scheme {} is unknown: expected file, mem, dev, fault, nbd or iscsi",
                      quoted(uri), quoted(uri.substr(0, colon)))};
}

Result<std::shared_ptr<Leg>> open_plain(std::string_view uri, bool read_only, LegContext& context) {
  if (uri.starts_with('/') || uri.starts_with("file:")) return open_file_leg(uri, read_only);
  if (uri.starts_with("mem:")) return open_memory_leg(uri, read_only, context);
  if (uri.starts_with(device_scheme)) return open_device(uri, read_only, context);
  if (is_nbd_uri(uri)) return open_nbd_leg(uri, read_only);
  if (uri.starts_with("iscsi:")) return open_iscsi_leg(uri, read_only);
  return unknown(uri);
}

}  // namespace

Result<std::shared_ptr<Leg>> open_leg(std::string_view uri, bool read_only, LegContext& context) {
  if (uri.size() > max_uri)
    return Error{Errc::limit, fmt::format("leg {}: expected at most {} bytes",
                                          quoted(public_uri(uri)), max_uri)};
  struct Wrapper {
    std::string_view uri, rules;
  };
  std::vector<Wrapper> wrappers;
  std::string_view rules, inner = uri;
  for (std::string_view outer = uri; split_fault_uri(outer, rules, inner); outer = inner) {
    if (wrappers.size() == max_wrappers)
      return Error{Errc::limit, fmt::format("leg {}: expected at most {} fault wrappers",
                                            quoted(public_uri(uri)), max_wrappers)};
    // Checked before anything is opened.
    if (auto parsed = parse_fault_rules(rules); !parsed)
      return Error{parsed.code(),
                   fmt::format("leg {}: {}", quoted(public_uri(uri)), parsed.error().message)};
    wrappers.push_back({outer, rules});
  }
  auto leg = open_plain(inner, read_only, context);
  for (; leg && !wrappers.empty(); wrappers.pop_back())
    leg = wrap_in_faults(wrappers.back().uri, wrappers.back().rules, std::move(*leg));
  return leg;
}

std::string device_in_uri(std::string_view uri) {
  std::string_view rules, inner = uri;
  while (split_fault_uri(uri, rules, inner))
    uri = inner;
  return std::string(uri.starts_with(device_scheme) ? uri.substr(device_scheme.size())
                                                    : std::string_view());
}

}  // namespace blockloom
