// Drives one leg by words from standard input, for tests of what no client of a device sees: links,
// fences, cancelled and late requests. Answers on standard output, a line each:
//   open URI [ro]                opened SIZE | refused MESSAGE
//   write TAG OFFSET LENGTH BYTE [fua]     later: done TAG CODE
//   read TAG OFFSET LENGTH                 later: done TAG CODE BYTE|mixed
//   zero|trim TAG OFFSET LENGTH [may_trim|fast|fua]…
//   flush TAG                    extents TAG OFFSET LENGTH     later: done TAG CODE [LENGTH:hz…]
//   control                      controlled | refused MESSAGE
//   fence EPOCH own|everyone MS  later: fenced EPOCH given|not_yet|impossible REASON
//   session EPOCH MS             later: session EPOCH CODE MESSAGE
//   cancel TAG, abandon, release, state, close, quit
// By itself: lost REASON, up EPOCH.
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
#include "server/leg/memory_leg.hpp"
#include "server/leg/remote_leg.hpp"

using namespace blockloom;

namespace {

std::mutex out_mutex;

void say(const std::string& line) {
  const std::lock_guard lock(out_mutex);
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

struct Request {
  Io io;
  std::string tag;
  std::vector<std::byte> data;
  Extents extents;
};

std::mutex requests_mutex;
std::map<std::string, std::shared_ptr<Request>> requests;

void tell(Request& request) {
  std::string line = fmt::format("done {} {}", request.tag, to_string(request.io.status));
  if (request.io.op == Op::read && request.io.status == Errc::ok) {
    const auto first = request.data.front();
    bool same = true;
    for (const auto byte : request.data)
      same = same && byte == first;
    line += same ? fmt::format(" {}", static_cast<unsigned>(first)) : " mixed";
  }
  if (request.io.op == Op::extents)
    for (const Extent& extent : request.extents.list())
      line += fmt::format(" {}:{}{}", extent.length.value, extent.hole ? "h" : "",
                          extent.zero ? "z" : "");
  {
    // First: whoever reads the line may use the tag again.
    const std::lock_guard lock(requests_mutex);
    const auto found = requests.find(request.tag);
    if (found != requests.end() && found->second.get() == &request) requests.erase(found);
  }
  say(line);
}

class Listener final : public LinkListener {
 public:
  void link_lost(RemoteLeg&, const Error& reason) noexcept override {
    say("lost " + reason.message);
  }
  void link_up(RemoteLeg&, std::uint64_t epoch) noexcept override {
    say(fmt::format("up {}", epoch));
  }
};

void submit(Leg& leg, std::istringstream& words, const std::string& verb) {
  auto owned = std::make_shared<Request>();
  Request& request = *owned;
  std::uint64_t offset = 0, length = 0;
  words >> request.tag;
  if (verb != "flush") words >> offset >> length;
  Io& io = request.io;
  io.op = verb == "write"   ? Op::write
          : verb == "read"  ? Op::read
          : verb == "zero"  ? Op::zero
          : verb == "trim"  ? Op::trim
          : verb == "flush" ? Op::flush
                            : Op::extents;
  io.offset = Bytes(offset);
  io.length = Bytes(length);
  if (io.op == Op::write) {
    unsigned byte = 0;
    words >> byte;
    request.data.assign(length, static_cast<std::byte>(byte));
  }
  if (io.op == Op::read) request.data.resize(length);
  for (std::string flag; words >> flag;)
    io.flags = static_cast<std::uint8_t>(io.flags | (flag == "fua"    ? io_flag::fua
                                                     : flag == "fast" ? io_flag::fast
                                                                      : io_flag::may_trim));
  io.data = request.data.data();
  io.extents = &request.extents;
  io.owner = &request;
  io.complete = [](Io& ended) noexcept { tell(*static_cast<Request*>(ended.owner)); };
  {
    const std::lock_guard lock(requests_mutex);
    requests[request.tag] = std::move(owned);
  }
  if (leg.submit(io) == Submit::done) tell(request);
}

std::string_view to_string(Cancel cancel) {
  switch (cancel) {
    case Cancel::gone:
      return "gone";
    case Cancel::never_sent:
      return "never_sent";
    case Cancel::asked:
      return "asked";
    default:
      return "unknown";
  }
}

void cancel(RemoteLeg& remote, const std::string& tag) {
  std::shared_ptr<Request> request;  // keeps its memory: its end may come inside the call
  {
    const std::lock_guard lock(requests_mutex);
    if (const auto found = requests.find(tag); found != requests.end()) request = found->second;
  }
  const Cancel result = request ? remote.cancel(request->io) : Cancel::gone;
  say(fmt::format("cancel {} {}", tag, to_string(result)));
}

void control(RemoteLeg& remote, Listener& listener, std::istringstream& words,
             const std::string& verb) {
  std::uint64_t epoch = 0, ms = 0;
  if (verb == "control") {
    auto taken = remote.take_control(listener);
    say(taken ? "controlled" : "refused " + taken.error().message);
  } else if (verb == "fence") {
    std::string scope;
    words >> epoch >> scope >> ms;
    remote.fence(epoch, scope == "own" ? FenceScope::own : FenceScope::everyone,
                 Clock::now() + std::chrono::milliseconds(ms), [epoch](FenceResult result) {
                   static constexpr std::string_view proofs[] = {"given", "not_yet", "impossible"};
                   say(fmt::format("fenced {} {} {}", epoch,
                                   proofs[static_cast<std::size_t>(result.proof)], result.reason));
                 });
  } else if (verb == "session") {
    words >> epoch >> ms;
    remote.open_session(epoch, Clock::now() + std::chrono::milliseconds(ms),
                        [epoch](Result<void> result) {
                          say(fmt::format("session {} {} {}", epoch, to_string(result.code()),
                                          result ? "" : result.error().message));
                        });
  } else if (verb == "cancel") {
    std::string tag;
    words >> tag;
    cancel(remote, tag);
  } else if (verb == "abandon") {
    remote.abandon({Errc::cancelled, "abandoned"});
    say("abandoned");
  } else if (verb == "release") {
    remote.release();
    say("released");
  } else if (verb == "state") {
    say("state " + remote.link_state());
  } else {
    say("unknown " + verb);
  }
}

}  // namespace

int main() {
  NamedMemory memories;
  LegContext context;
  context.memories = &memories;
  Listener listener;
  std::shared_ptr<Leg> leg;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "quit") break;
    if (verb == "close") {
      leg.reset();
      say("closed");
      continue;
    }
    if (verb == "open") {
      std::string uri, mode;
      words >> uri >> mode;
      auto opened = open_leg(uri, mode == "ro", context);
      if (opened) leg = *opened;
      say(opened ? fmt::format("opened {}", leg->size().value)
                 : "refused " + opened.error().message);
    } else if (!leg) {
      say("refused: open a leg first");
    } else if (verb == "write" || verb == "read" || verb == "zero" || verb == "trim" ||
               verb == "flush" || verb == "extents") {
      submit(*leg, words, verb);
    } else if (leg->remote() == nullptr) {
      say("refused: a local leg");
    } else {
      control(*leg->remote(), listener, words, verb);
    }
  }
  leg.reset();
  say("bye");
  return 0;
}
