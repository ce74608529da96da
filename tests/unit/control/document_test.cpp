// docs/control-api.md and the table of verbs say the same.
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/control/error_code.hpp"
#include "server/control/verb.hpp"
#include "tests/unit/control/support.hpp"

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

using Names = std::set<std::string>;

/// The names in the sentence "Result: …" of each method, up to its errors or its paragraph's end.
/// "as `apply`" and "as in `deps`" stand for the names there.
std::map<std::string, Names> documented_results() {
  std::map<std::string, Names> results;
  const std::regex heading("^### `([a-z_]+)`$");
  const std::regex word("(\\bas (?:in )?)?`([a-z_]+)`");
  std::string method;
  std::string text;
  const auto take = [&] {
    const std::size_t begin = text.find("Result: ");
    if (begin == std::string::npos) return text.clear();
    const std::string result = text.substr(begin, text.find("Error", begin) - begin);
    for (std::sregex_iterator at(result.begin(), result.end(), word), end; at != end; ++at) {
      if ((*at)[1].matched)
        results[method].merge(Names(results[(*at)[2]]));
      else
        results[method].insert((*at)[2]);
    }
    text.clear();
  };
  auto file = document();
  for (std::string line; std::getline(file, line);) {
    if (line.empty()) take();
    std::smatch found;
    if (std::regex_match(line, found, heading)) method = found[1];
    text += line + " ";
  }
  take();
  return results;
}

/// The names of all members, however deep.
void add_names(const rpc::Value& value, Names& names) {
  if (const auto* members = value.members())
    for (const auto& member : *members) {
      names.insert(member.name);
      add_names(member.value, names);
    }
  for (const rpc::Value& item : value.list())
    add_names(item, names);
}

/// A call of every method, in an order in which each has something to answer.
constexpr std::pair<std::string_view, std::string_view> every_method[] = {
    {"version", "{}"},
    {"targets", "{}"},
    {"create", R"({"name":"low","table":"0 8 linear mem:1M 0"})"},
    {"create", R"({"name":"a","table":"0 8 linear dev:low 0"})"},
    {"load", R"({"device":"a","table":"0 8 zero"})"},
    {"clear", R"({"device":"a"})"},
    {"suspend", R"({"device":"a"})"},
    {"resume", R"({"device":"a"})"},
    {"rename", R"({"device":"a","new_name":"b"})"},
    {"set_uuid", R"({"device":"b","new_uuid":"U"})"},
    {"create", R"({"name":"f","table":"0 8 linear fault:[]:mem:1M 0"})"},
    {"message", R"({"device":"f","sector":0,"words":["leg","0","held"]})"},
    {"list", "{}"},
    {"info", "{}"},
    {"table", "{}"},
    {"status", "{}"},
    {"deps", "{}"},
    {"tree", "{}"},
    {"stats", "{}"},
    {"wait", R"({"device":"b","event_number":0})"},
    {"events", "{}"},
    {"check", R"({"devices":[{"name":"c","table":"0 8 zero"}]})"},
    {"apply", R"({"devices":[{"name":"c","table":"0 8 zero"}]})"},
    {"reload", "{}"},
    {"create",
     R"({"name":"m","table":"0 256 mirror core 2 128 nosync 2 mem:1M?name=x 0 mem:1M?name=y 0"})"},
    {"leg_add", R"({"device":"m","uri":"mem:1M?name=z"})"},
    {"leg_remove", R"({"device":"m","leg":"2"})"},
    {"leg_replace", R"({"device":"m","leg":"1","uri":"mem:1M?name=z"})"},
    {"leg_fail", R"({"device":"m","leg":"1"})"},
    {"leg_readd", R"({"device":"m","leg":"1"})"},
    {"attach_help", R"({"device":"b"})"},
    {"remove", R"({"device":"c"})"},
};

}  // namespace

TEST_CASE("what every method answers has the names in the document, and no others") {
  Options options;
  options.endpoints.push_back({Endpoint::Kind::tcp, "127.0.0.1", 10809, false});
  options.reload = []() -> Result<ApplyReport> { return ApplyReport{}; };
  TestServer server(options);
  TestClient client(server.path);
  std::map<std::string, Names> answered;
  for (const auto& [method, params] : every_method) {
    const rpc::Reply reply = client.call(method, params);
    REQUIRE_MESSAGE(!reply.failure, reply.failure->message);
    add_names(reply.result, answered[std::string(method)]);
  }
  const auto said = documented_results();
  for (const Verb& verb : verbs()) {
    const std::string name(verb.name);
    CAPTURE(name);
    // Answered by the target itself: tests/functional/iscsi_config_test.py compares those.
    if (name.starts_with("iscsi_")) continue;
    // Says most when something is wrong: tests/functional/mirror_test.py makes that.
    if (name == "mirror_status" || name == "leg_vouch") continue;
    REQUIRE(answered.contains(name));
    REQUIRE(said.contains(name));
    Names promised = said.at(name);
    // A parameter may be spoken of there; it is a name of the answer only if it is in it.
    for (const ParamSpec& spec : verb.params)
      if (!answered.at(name).contains(std::string(spec.name)))
        promised.erase(std::string(spec.name));
    CHECK(fmt::format("{}", fmt::join(answered.at(name), " ")) ==
          fmt::format("{}", fmt::join(promised, " ")));
  }
}

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
