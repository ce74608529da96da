#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace blockloom::iscsi {

/// CHAP's hash functions, by their numbers in CHAP_A (RFC 7143 12.1.3, IANA's registry).
enum class ChapAlgorithm : std::uint8_t { md5 = 5, sha1 = 6, sha256 = 7, sha3_256 = 8 };

/// "md5", "sha1", "sha256", "sha3-256".
std::string_view to_string(ChapAlgorithm algorithm) noexcept;
std::optional<ChapAlgorithm> chap_algorithm(std::string_view name) noexcept;
std::size_t chap_length(ChapAlgorithm algorithm) noexcept;  ///< of a response, in bytes

/// Longest binary value of CHAP_C and CHAP_R, decoded.
inline constexpr std::size_t max_chap_bytes = 1024;

/// hash(identifier, secret, challenge). Nothing where OpenSSL refuses the function (MD5 in FIPS
/// mode).
std::optional<std::string> chap_response(ChapAlgorithm algorithm, std::uint8_t identifier,
                                         std::string_view secret, std::string_view challenge);

/// Takes the same time wherever the two differ.
bool equal_secretly(std::string_view a, std::string_view b) noexcept;

/// Who may log in, and what this side proves itself with.
struct ChapSettings {
  struct User {
    std::string name, secret;
    bool operator==(const User&) const = default;
  };
  std::vector<User> users;  ///< empty: no authentication
  User mutual;              ///< empty name: this side proves nothing
  /// Those that are allowed, the first one that the initiator offers is taken.
  std::vector<ChapAlgorithm> algorithms{ChapAlgorithm::sha3_256, ChapAlgorithm::sha256,
                                        ChapAlgorithm::sha1, ChapAlgorithm::md5};

  bool required() const noexcept { return !users.empty(); }
  bool operator==(const ChapSettings&) const = default;
};

/// One authentication, seen from the target: CHAP_A → CHAP_A, I, C → CHAP_N, R (I, C) → (N, R).
class Chap {
 public:
  /// The settings outlive it.
  explicit Chap(const ChapSettings& settings) : settings_(settings) {}

  /// Takes CHAP_A's list; false: nothing in it is allowed or available (why() says which).
  /// `random` holds 33 bytes: the identifier and the challenge.
  bool choose(std::string_view list, std::string_view random);
  ChapAlgorithm algorithm() const noexcept { return algorithm_; }
  std::uint8_t identifier() const noexcept { return identifier_; }
  const std::string& challenge() const noexcept { return challenge_; }

  /// Takes the initiator's proof, as text values; true: it knows the secret.
  bool verify(std::string_view name, std::string_view response);
  const std::string& user() const noexcept { return user_; }  ///< who was verified

  /// This side's proof, for CHAP_I and CHAP_C of the initiator. Nothing: refused (no mutual
  /// secret, malformed, oversize, or our own challenge sent back).
  struct Proof {
    std::string name, response;
  };
  std::optional<Proof> prove(std::string_view identifier, std::string_view challenge);

  /// A sentence for the log.
  const std::string& why() const noexcept { return why_; }

 private:
  const ChapSettings& settings_;
  ChapAlgorithm algorithm_ = ChapAlgorithm::md5;
  std::uint8_t identifier_ = 0;
  std::string challenge_, user_, why_;
};

}  // namespace blockloom::iscsi
