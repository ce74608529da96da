#include "server/control/error_code.hpp"

#include <array>

namespace blockloom::control {
namespace {

struct Row {
  Errc code;
  int rpc_code;
};

// In the order of the enum: to_rpc_code() indexes it.
constexpr std::array rows{
    Row{Errc::ok, 0},
    Row{Errc::invalid, -32001},
    Row{Errc::out_of_range, -32002},
    Row{Errc::not_found, -32003},
    Row{Errc::exists, -32004},
    Row{Errc::busy, -32005},
    Row{Errc::loop, -32006},
    Row{Errc::read_only, -32007},
    Row{Errc::not_supported, -32008},
    Row{Errc::no_space, -32009},
    Row{Errc::no_memory, -32010},
    Row{Errc::permission, -32011},
    Row{Errc::io, -32012},
    Row{Errc::timed_out, -32013},
    Row{Errc::cancelled, -32014},
    Row{Errc::removed, -32015},
    Row{Errc::shutdown, -32016},
    Row{Errc::limit, -32017},
    Row{Errc::corrupt, -32018},
};

constexpr bool in_enum_order() {
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (static_cast<std::size_t>(rows[i].code) != i) return false;
  return true;
}
static_assert(in_enum_order() && rows.size() == static_cast<std::size_t>(Errc::corrupt) + 1);

}  // namespace

int to_rpc_code(Errc code) noexcept {
  const auto index = static_cast<std::size_t>(code);
  return index < rows.size() ? rows[index].rpc_code : rpc::code::internal_error;
}

Errc from_rpc_code(int code) noexcept {
  for (const Row& row : rows)
    if (row.rpc_code == code) return row.code;
  return Errc::io;
}

rpc::Failure to_failure(const Error& error) {
  rpc::Value data = rpc::Value::object();
  data.set("errc", to_string(error.code));
  return {to_rpc_code(error.code), error.message, std::move(data)};
}

}  // namespace blockloom::control
