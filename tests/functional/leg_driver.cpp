// Drives one remote leg (server/leg/remote_leg.hpp) by lines on standard input, for tests that
// stop, kill and cut what stands behind it. What happens is told on standard output, a line each:
//
//   open URI                          ok SIZE | error MESSAGE
//   control                           ok | error MESSAGE
//   write ID OFFSET LENGTH BYTE [fua]   later: end ID STATUS
//   read ID OFFSET LENGTH               later: end ID STATUS BYTE (or "mixed")
//   flush ID | trim ID OFFSET LENGTH | zero ID OFFSET LENGTH
//   cancel ID                         cancel ID gone|never_sent|asked|unknown
//   fence EPOCH own|everyone MS         later: fence EPOCH given|not_yet|impossible REASON
//   session EPOCH MS                    later: session EPOCH ok | session EPOCH CODE MESSAGE
//   abandon | release | state | close   ok … when done
// and at any time: lost MESSAGE, up EPOCH.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "server/leg/leg.hpp"
#include "server/leg/remote_leg.hpp"

using namespace blockloom;

namespace {

std::mutex printing;

void say(const std::string& line) {
  const std::lock_guard lock(printing);
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

struct Listener final : LinkListener {
  void link_lost(RemoteLeg&, const Error& reason) noexcept override {
    say("lost " + reason.message);
  }
  void link_up(RemoteLeg&, std::uint64_t epoch) noexcept override {
    say(fmt::format("up {}", epoch));
  }
};

struct Piece {
  std::string id;
  Io io;
  std::vector<std::byte> data;
};

std::string contents(const Piece& piece) {
  if (piece.io.op != Op::read || piece.data.empty()) return "";
  const std::byte first = piece.data.front();
  const bool same = std::all_of(piece.data.begin(), piece.data.end(),
                                [first](std::byte b) { return b == first; });
  return same ? fmt::format(" {}", std::to_integer<int>(first)) : " mixed";
}

void ended(Io& io) noexcept {
  const auto& piece = *static_cast<Piece*>(io.owner);
  say(fmt::format("end {} {}{}", piece.id, to_string(io.status), contents(piece)));
}

class Driver {
 public:
  void run() {
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream words(line);
      std::string verb;
      words >> verb;
      if (verb == "open")
        open(words);
      else if (leg_ == nullptr)
        say("error open a leg first");
      else
        obey(verb, words);
    }
    leg_.reset();
  }

 private:
  void open(std::istringstream& words) {
    std::string uri;
    words >> uri;
    LegContext context;
    auto leg = open_leg(uri, false, context);
    if (!leg) return say("error " + leg.error().message);
    leg_ = std::move(*leg);
    say(fmt::format("ok {}", leg_->size().value));
  }

  void obey(const std::string& verb, std::istringstream& words) {
    RemoteLeg& remote = *leg_->remote();
    if (verb == "control") {
      const auto taken = remote.take_control(listener_);
      say(taken ? "ok" : "error " + taken.error().message);
    } else if (verb == "fence") {
      fence(remote, words);
    } else if (verb == "session") {
      session(remote, words);
    } else if (verb == "cancel") {
      cancel(remote, words);
    } else if (verb == "abandon") {
      remote.abandon({Errc::cancelled, "the test gave it up"});
      say("ok");
    } else if (verb == "release") {
      remote.release();
      say("ok");
    } else if (verb == "state") {
      say("ok " + remote.link_state());
    } else if (verb == "close") {
      leg_.reset();
      say("ok");
    } else {
      io(verb, words);
    }
  }

  void io(const std::string& verb, std::istringstream& words) {
    auto piece = std::make_unique<Piece>();
    std::uint64_t offset = 0, length = 0;
    int byte = 0;
    std::string flag;
    words >> piece->id >> offset >> length >> byte >> flag;
    Io& io = piece->io;
    io.op = verb == "write"   ? Op::write
            : verb == "read"  ? Op::read
            : verb == "flush" ? Op::flush
            : verb == "trim"  ? Op::trim
                              : Op::zero;
    io.offset = Bytes(offset);
    io.length = Bytes(length);
    if (flag == "fua") io.flags = io_flag::fua;
    if (verb == "write" || verb == "read") piece->data.assign(length, std::byte(byte));
    io.data = piece->data.data();
    io.owner = piece.get();
    io.complete = ended;
    pieces_[piece->id] = std::move(piece);
    if (leg_->submit(io) == Submit::done) ended(io);
  }

  void cancel(RemoteLeg& remote, std::istringstream& words) {
    std::string id;
    words >> id;
    constexpr const char* names[] = {"gone", "never_sent", "asked", "unknown"};
    const Cancel answer = remote.cancel(pieces_.at(id)->io);
    say(fmt::format("cancel {} {}", id, names[static_cast<int>(answer)]));
  }

  static TimePoint deadline(std::istringstream& words) {
    long milliseconds = 0;
    words >> milliseconds;
    return Clock::now() + std::chrono::milliseconds(milliseconds);
  }

  static void fence(RemoteLeg& remote, std::istringstream& words) {
    std::uint64_t epoch = 0;
    std::string scope;
    words >> epoch >> scope;
    remote.fence(epoch, scope == "own" ? FenceScope::own : FenceScope::everyone, deadline(words),
                 [epoch](const FenceResult& result) {
                   constexpr const char* names[] = {"given", "not_yet", "impossible"};
                   say(fmt::format("fence {} {} {}", epoch, names[static_cast<int>(result.proof)],
                                   result.reason));
                 });
  }

  static void session(RemoteLeg& remote, std::istringstream& words) {
    std::uint64_t epoch = 0;
    words >> epoch;
    remote.open_session(epoch, deadline(words), [epoch](const Result<void>& result) {
      say(result ? fmt::format("session {} ok", epoch)
                 : fmt::format("session {} {} {}", epoch, to_string(result.code()),
                               result.error().message));
    });
  }

  Listener listener_;
  std::map<std::string, std::unique_ptr<Piece>> pieces_;  // outlive the leg
  std::shared_ptr<Leg> leg_;
};

}  // namespace

int main() {
  Driver().run();
}
