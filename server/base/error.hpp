#pragma once

#include <cassert>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace blockloom {

/// Every way in which an operation of the engine can end. One table per border turns it into the
/// border's own codes: to_errno() below for NBD, others beside their protocols.
enum class Errc : std::uint8_t {
  ok = 0,
  invalid,        ///< malformed input: a table line, an option, an unaligned request
  out_of_range,   ///< beyond the end of a device or a leg
  not_found,      ///< no such device, leg, file, target type
  exists,         ///< the name or uuid is taken
  busy,           ///< open, in use, or in a state that does not allow it
  loop,           ///< a stack of devices that would contain itself
  read_only,      ///< a write to something read-only
  not_supported,  ///< the leg or target cannot do this
  no_space,       ///< the backing store is full
  no_memory,
  permission,
  io,         ///< the medium or the leg failed
  timed_out,  ///< a bound was passed; the operation may still happen
  cancelled,
  removed,   ///< the device was removed (by force) under the request
  shutdown,  ///< the engine is stopping
  limit,     ///< a bounded queue or table is full
  corrupt,   ///< stored data failed its checksum or grammar
};

/// The standard name, as it appears in messages, logs and JSON ("timed_out").
std::string_view to_string(Errc code) noexcept;

/// The border to the operating system and to nbdkit, both ways. Unknown values become Errc::io.
int to_errno(Errc code) noexcept;
Errc from_errno(int error_number) noexcept;

/// A failure with a sentence for a person: names the thing, the value, what was expected.
struct [[nodiscard]] Error {
  Errc code = Errc::io;
  std::string message;
};

/// Builds the Error for a failed system call: "WHAT: strerror".
Error system_error(std::string_view what, int error_number);

/// A word or name from outside as messages show it: in quotes, cut to 64 bytes, without control
/// characters.
std::string quoted(std::string_view text);

/// A value or an Error. Errors travel by return value; the engine throws nothing of its own.
template <class T = void>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const noexcept { return state_.index() == 0; }
  T& value() & { return *checked(); }
  T&& value() && { return std::move(*checked()); }
  const T& value() const& { return *const_cast<Result*>(this)->checked(); }
  T& operator*() & { return *checked(); }
  T* operator->() { return checked(); }

  /// Only of a Result that failed.
  const Error& error() const { return std::get<1>(state_); }
  Errc code() const noexcept { return state_.index() == 0 ? Errc::ok : std::get<1>(state_).code; }

 private:
  T* checked() {
    assert(state_.index() == 0);
    return std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}

  explicit operator bool() const noexcept { return !failed_; }
  const Error& error() const {
    assert(failed_);
    return error_;
  }
  Errc code() const noexcept { return failed_ ? error_.code : Errc::ok; }

 private:
  Error error_{Errc::ok, {}};
  bool failed_ = false;
};

}  // namespace blockloom
