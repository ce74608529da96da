// A load generator for iSCSI targets that speaks the protocol itself: Debian's libiscsi has no data
// digest, and spends more on an operation than a target does. One thread, several sessions; it
// looks at no byte that it reads, but for digests.
//
//   iscsi_digest_load [OPTIONS] iscsi://HOST[:PORT]/TARGET/LUN
//
//   --op read|write            random; default: read
//   --block BYTES  --depth N   4096, 1; the depth is one session's
//   --sessions N  --seconds S  1, 3
//   --digest none|header|data|both
//
// Prints the line of JSON that iscsi_load prints.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>

#include "proto/iscsi/text.hpp"
#include "tests/bench/digest_session.hpp"

namespace {

using namespace blockloom::iscsi::load;  // NOLINT: a program of one file
using blockloom::iscsi::parse_number;

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void run(Load& load, const std::vector<std::unique_ptr<Session>>& sessions) {
  load.micros.reserve(1 << 20);
  const double cpu = cpu_seconds();
  const auto start = Clock::now();
  load.end =
      start + std::chrono::microseconds(static_cast<std::int64_t>(load.settings.seconds * 1e6));
  for (const auto& s : sessions)
    s->start();
  const auto patience = load.end + std::chrono::seconds(30);
  std::vector<pollfd> polls(sessions.size());
  while (std::any_of(sessions.begin(), sessions.end(),
                     [](const auto& s) { return s->under_way() > 0; })) {
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      sessions[i]->send();
      polls[i] = {sessions[i]->fd(),
                  static_cast<short>(sessions[i]->sending() ? POLLIN | POLLOUT : POLLIN), 0};
    }
    if (::poll(polls.data(), polls.size(), 100) < 0) continue;
    for (std::size_t i = 0; i < sessions.size(); ++i)
      if ((polls[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) sessions[i]->receive();
    if (Clock::now() > patience) die("requests were not answered within 30 seconds");
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::sort(load.micros.begin(), load.micros.end());
  const auto at = [&](double part) {
    if (load.micros.empty()) return std::uint32_t{0};
    return load
        .micros[static_cast<std::size_t>(static_cast<double>(load.micros.size() - 1) * part)];
  };
  double sum = 0;
  for (const std::uint32_t micros : load.micros)
    sum += micros;
  const double count = static_cast<double>(load.done);
  fmt::print(
      "{{\"operations\": {}, \"errors\": 0, \"seconds\": {:.3f}, \"iops\": {:.0f}, \"mb_s\": "
      "{:.1f}, \"mean_us\": {:.1f}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, "
      "\"client_cpu_s\": {:.3f}}}\n",
      load.done, seconds, count / seconds, count * load.settings.block / seconds / 1e6,
      load.done > 0 ? sum / count : 0, at(0.5), at(0.99), at(1), cpu_seconds() - cpu);
}

template <class T>
T number(std::string_view text) {
  const auto value = parse_number(text);
  if (!value || *value > UINT32_MAX) die(fmt::format("'{}' is no number", text));
  return static_cast<T>(*value);
}

void parse_url(std::string_view url, Settings& settings) {
  constexpr std::string_view scheme = "iscsi://";
  const std::string_view rest = url.substr(std::min(url.size(), scheme.size()));
  const std::size_t slash = rest.find('/'), last = rest.rfind('/');
  if (!url.starts_with(scheme) || slash == std::string_view::npos || last == slash)
    die(fmt::format("'{}': expected iscsi://HOST[:PORT]/TARGET/LUN", url));
  const std::string_view portal = rest.substr(0, slash);
  const std::size_t colon = portal.find(':');
  settings.host = portal.substr(0, colon);
  if (colon != std::string_view::npos)
    settings.port = number<std::uint16_t>(portal.substr(colon + 1));
  settings.target = rest.substr(slash + 1, last - slash - 1);
  settings.lun = number<std::uint8_t>(rest.substr(last + 1));
}

Settings parse(int argc, char** argv) {
  Settings settings;
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (!word.starts_with("--")) {
      parse_url(word, settings);
      continue;
    }
    if (++i == words.size()) die(fmt::format("{} needs a value", word));
    const std::string_view value = words[i];
    if (word == "--op" && (value == "read" || value == "write"))
      settings.write = value == "write";
    else if (word == "--digest" &&
             (value == "none" || value == "header" || value == "data" || value == "both")) {
      settings.header_digest = value == "header" || value == "both";
      settings.data_digest = value == "data" || value == "both";
    } else if (word == "--block") {
      settings.block = number<std::uint32_t>(value);
    } else if (word == "--depth") {
      settings.depth = number<unsigned>(value);
    } else if (word == "--sessions") {
      settings.sessions = number<unsigned>(value);
    } else if (word == "--seconds") {
      settings.seconds = std::strtod(std::string(value).c_str(), nullptr);
    } else {
      die(fmt::format("'{} {}' is unknown", word, value));
    }
  }
  if (settings.target.empty()) die("which LUN? iscsi://HOST[:PORT]/TARGET/LUN");
  if (settings.block % 512 != 0 || settings.block == 0 || settings.depth == 0)
    die("--block is whole sectors, --depth at least 1");
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  Load load;
  load.settings = parse(argc, argv);
  std::vector<std::unique_ptr<Session>> sessions;
  for (unsigned i = 0; i < load.settings.sessions; ++i)
    sessions.push_back(std::make_unique<Session>(load, i));
  for (const auto& s : sessions)
    load.blocks = s->capacity() / load.settings.block;
  if (load.blocks == 0 || load.settings.block % load.sector != 0)
    die("the LUN is smaller than a block, or its sectors are larger");
  run(load, sessions);
  return 0;
}
