// docs/control-api.md and the table of verbs say the same.
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "server/control/error_code.hpp"
#include "server/control/verb.hpp"

using namespace blockloom;
using namespace blockloom::control;

namespace {

std::ifstream document() {
  std::ifstream file(BLOCKLOOM_SOURCE "/docs/control-api.md");
  REQUIRE(file);
  return file;
}

/// A method's heading "### `name`" → its rows "| `param` | type | required |".
std::map<std::string, std::set<std::string>> documented() {
  std::map<std::string, std::set<std::string>> methods;
  const std::regex heading("^### `([a-z_]+)`$");
  const std::regex row("^\\| `([a-z_]+)` \\| ([a-z]+) \\| (yes|no) \\|.*");
  std::string method;
  auto file = document();
  for (std::string line; std::getline(file, line);) {
    std::smatch found;
    if (std::regex_match(line, found, heading)) {
      method = found[1];
      methods[method];
    } else if (line.starts_with("#")) {
      method.clear();
    } else if (!method.empty() && std::regex_match(line, found, row)) {
      methods[method].insert(
          fmt::format("{} {} {}", found[1].str(), found[2].str(), found[3].str()));
    }
  }
  return methods;
}

}  // namespace

TEST_CASE("the document lists every method with every parameter, and no other") {
  std::map<std::string, std::set<std::string>> table;
  for (const Verb& verb : verbs()) {
    auto& params = table[std::string(verb.name)];
    for (const ParamSpec& spec : verb.params)
      params.insert(fmt::format("{} {} {}", spec.name, to_string(spec.type),
                                spec.need == Need::required ? "yes" : "no"));
  }
  const auto text = documented();
  for (const auto& row : table) {
    const std::string& name = row.first;  // a binding cannot be captured
    CAPTURE(name);
    REQUIRE(text.contains(name));
    CHECK(text.at(name) == row.second);
  }
  CHECK(text.size() == table.size());
}

TEST_CASE("the document lists every error with its code") {
  std::set<std::string> rows;
  auto file = document();
  for (std::string line; std::getline(file, line);)
    rows.insert(line.substr(0, line.find("|", line.find("|", 2) + 1) + 1));
  for (int i = 1; i <= static_cast<int>(Errc::corrupt); ++i) {
    const auto errc = static_cast<Errc>(i);
    const std::string row = fmt::format("| {} | `{}` |", to_rpc_code(errc), to_string(errc));
    CAPTURE(row);
    CHECK(rows.contains(row));
  }
}

TEST_CASE("every verb has a function, and only watched ones have none") {
  std::set<std::string_view> names;
  for (const Verb& verb : verbs()) {
    CAPTURE(verb.name);
    CHECK(names.insert(verb.name).second);
    CHECK((verb.function == nullptr) == (verb.runs == Runs::watch));
    CHECK(find_verb(verb.name) == &verb);
  }
  CHECK(find_verb("") == nullptr);
}
