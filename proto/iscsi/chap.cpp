#include "proto/iscsi/chap.hpp"

#include <algorithm>
#include <array>
#include <memory>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "proto/iscsi/text.hpp"

namespace blockloom::iscsi {
namespace {

struct Algorithm {
  ChapAlgorithm algorithm;
  std::string_view name;
  const char* openssl;
  std::size_t length;
};

constexpr std::array algorithms{Algorithm{ChapAlgorithm::md5, "md5", "MD5", 16},
                                Algorithm{ChapAlgorithm::sha1, "sha1", "SHA1", 20},
                                Algorithm{ChapAlgorithm::sha256, "sha256", "SHA2-256", 32},
                                Algorithm{ChapAlgorithm::sha3_256, "sha3-256", "SHA3-256", 32}};

const Algorithm& row(ChapAlgorithm algorithm) noexcept {
  for (const Algorithm& r : algorithms)
    if (r.algorithm == algorithm) return r;
  return algorithms[0];
}

}  // namespace

std::string_view to_string(ChapAlgorithm algorithm) noexcept {
  return row(algorithm).name;
}

std::optional<ChapAlgorithm> chap_algorithm(std::string_view name) noexcept {
  for (const Algorithm& r : algorithms)
    if (r.name == name) return r.algorithm;
  return std::nullopt;
}

std::size_t chap_length(ChapAlgorithm algorithm) noexcept {
  return row(algorithm).length;
}

std::optional<std::string> chap_response(ChapAlgorithm algorithm, std::uint8_t identifier,
                                         std::string_view secret, std::string_view challenge) {
  using Digest = std::unique_ptr<EVP_MD, decltype(&EVP_MD_free)>;
  using Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;
  const Digest digest(EVP_MD_fetch(nullptr, row(algorithm).openssl, nullptr), &EVP_MD_free);
  const Context context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  std::array<unsigned char, EVP_MAX_MD_SIZE> out;
  unsigned length = 0;
  if (!digest || !context || EVP_DigestInit_ex(context.get(), digest.get(), nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), &identifier, 1) != 1 ||
      EVP_DigestUpdate(context.get(), secret.data(), secret.size()) != 1 ||
      EVP_DigestUpdate(context.get(), challenge.data(), challenge.size()) != 1 ||
      EVP_DigestFinal_ex(context.get(), out.data(), &length) != 1)
    return std::nullopt;
  return std::string(reinterpret_cast<const char*>(out.data()), length);
}

bool equal_secretly(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

bool Chap::choose(std::string_view list, std::string_view random) {
  const std::vector<std::string_view> offered = split_list(list);
  why_ = "the initiator offers no CHAP algorithm that is allowed here";
  for (const ChapAlgorithm algorithm : settings_.algorithms) {
    const std::string number = std::to_string(static_cast<unsigned>(algorithm));
    if (std::find(offered.begin(), offered.end(), number) == offered.end()) continue;
    if (!chap_response(algorithm, 0, "x", "y")) {
      why_ = "CHAP with " + std::string(to_string(algorithm)) +
             " is refused by OpenSSL here (FIPS mode): the initiator has to offer sha256 or "
             "sha3-256";
      continue;
    }
    if (random.size() < 33) return false;
    algorithm_ = algorithm;
    identifier_ = static_cast<std::uint8_t>(random[0]);
    challenge_ = random.substr(1, std::max<std::size_t>(chap_length(algorithm), 16));
    why_.clear();
    return true;
  }
  return false;
}

bool Chap::verify(std::string_view name, std::string_view response) {
  const auto proof = decode_binary(response, max_chap_bytes);
  const ChapSettings::User* found = nullptr;
  for (const ChapSettings::User& user : settings_.users)
    if (user.name == name) found = &user;
  // Somebody unknown costs the same as a wrong secret.
  const auto expected =
      chap_response(algorithm_, identifier_, found ? found->secret : challenge_, challenge_);
  if (proof && expected && equal_secretly(*proof, *expected) && found != nullptr) {
    user_ = name;
    return true;
  }
  why_ = !proof             ? "CHAP_R is malformed or oversize"
         : found == nullptr ? "the CHAP name is unknown"
                            : "the CHAP secret is wrong";
  return false;
}

std::optional<Chap::Proof> Chap::prove(std::string_view identifier, std::string_view challenge) {
  const auto number = parse_number(identifier);
  const auto bytes = decode_binary(challenge, max_chap_bytes);
  if (settings_.mutual.name.empty())
    why_ = "the initiator wants this target to prove itself, and no mutual secret is set";
  else if (!number || *number > 255 || !bytes)
    why_ = "CHAP_I or CHAP_C of the initiator is malformed or oversize";
  else if (*bytes == challenge_)
    why_ = "the initiator sent this target's own challenge back";
  else if (const auto response = chap_response(algorithm_, static_cast<std::uint8_t>(*number),
                                               settings_.mutual.secret, *bytes))
    return Proof{settings_.mutual.name, *response};
  else
    why_ = "OpenSSL refuses CHAP's hash function";
  return std::nullopt;
}

}  // namespace blockloom::iscsi
