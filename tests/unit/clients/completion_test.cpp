// The bash completion, the manual page and the command line say the same.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

#include <doctest/doctest.h>

#include "clients/blockloom/command.hpp"

using namespace blockloom::cli;

namespace {

std::string file(const char* path) {
  std::ifstream stream(path);
  REQUIRE_MESSAGE(stream.good(), path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// The words that the completion offers after a verb.
std::string offered(const std::string& completion, const std::string& verb) {
  const std::regex row("\n        ([a-z|-]+)\\) (?:options=\"([^\"]*)\" )?;;");
  for (std::sregex_iterator at(completion.begin(), completion.end(), row), end; at != end; ++at)
    if (std::regex_search((*at)[1].str(), std::regex("(^|\\|)" + verb + "($|\\|)")))
      return " " + (*at)[2].str() + " ";
  FAIL("the completion has no row for " << verb);
  return {};
}

}  // namespace

TEST_CASE("the completion offers every verb and every option, and no other") {
  const std::string completion = file(BLOCKLOOM_SOURCE "/clients/completion/blockloom");
  std::smatch found;
  REQUIRE(std::regex_search(completion, found, std::regex("local verbs=\"([^\"]*)\"")));
  const std::string verbs = " " + std::regex_replace(found[1].str(), std::regex("\\s+"), " ") + " ";
  std::size_t count = 0;
  for (const VerbOptions& verb : verb_options()) {
    if (verb.verb.empty()) continue;
    CAPTURE(verb.verb);
    ++count;
    CHECK(verbs.find(" " + verb.verb + " ") != std::string::npos);
    std::string options = offered(completion, verb.verb);
    for (const std::string& option : verb.options) {
      if (option == "--help") continue;
      CAPTURE(option);
      const std::size_t at = options.find(" " + option + " ");
      CHECK(at != std::string::npos);
      if (at != std::string::npos) options.erase(at, option.size() + 1);
    }
    CHECK(options.find("--") == std::string::npos);  // nothing is left over
  }
  CHECK(static_cast<std::size_t>(std::count(verbs.begin(), verbs.end(), ' ')) == count + 1);
}

TEST_CASE("the manual page has every verb and every option") {
  const std::string page = file(BLOCKLOOM_SOURCE "/docs/blockloom.8.scd");
  for (const VerbOptions& verb : verb_options()) {
    CAPTURE(verb.verb);
    if (!verb.verb.empty()) CHECK(std::regex_search(page, std::regex("\n\\*" + verb.verb + "\\*")));
    for (const std::string& option : verb.options) {
      CAPTURE(option);
      CHECK(page.find("*" + option + "*") != std::string::npos);
    }
  }
}
