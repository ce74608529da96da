#include "server/control/dispatcher.hpp"

#include <exception>
#include <utility>

#include <fmt/format.h>

#include "server/control/error_code.hpp"

namespace blockloom::control {

using rpc::Value;

/// The answers to the requests of one text. Lives on the control thread.
struct Dispatcher::Exchange {
  bool batch;
  std::size_t left;
  std::vector<std::string> answers;  // empty for a notification
  Done done;

  void finish(std::size_t index, std::string answer) {
    answers[index] = std::move(answer);
    if (--left != 0) return;
    std::erase_if(answers, [](const std::string& text) { return text.empty(); });
    // Taken out first: what done runs may end this exchange.
    const Done tell = std::move(done);
    if (answers.empty()) return tell(std::nullopt);
    tell(batch ? rpc::write_batch(answers) : std::move(answers.front()));
  }
};

Dispatcher::Dispatcher(Registry& registry, const Options& options, Post post)
    : options_(options),
      context_{registry, options},
      post_(std::move(post)),
      watcher_(registry),
      changes_("bl-change", options.limits.change_threads, options.limits.queued_verbs),
      queries_("bl-query", options.limits.query_threads, options.limits.queued_verbs) {}

void Dispatcher::start() {
  changes_.start();
  queries_.start();
}

void Dispatcher::close() {
  changes_.close();
  queries_.close();
}

bool Dispatcher::wait_idle(TimePoint deadline) {
  return changes_.wait_idle(deadline) && queries_.wait_idle(deadline);
}

void Dispatcher::join() {
  changes_.join();
  queries_.join();
}

void Dispatcher::receive(Watcher::Owner owner, std::string_view text,
                         const std::function<void(std::size_t)>& begin, Done done, Notify notify) {
  rpc::Limits limits;
  limits.bytes = options_.limits.request_bytes;
  rpc::Incoming incoming = rpc::parse_request(text, limits);
  const std::size_t count = incoming.requests.size();
  begin(count);
  const auto exchange = std::make_shared<Exchange>();
  exchange->batch = incoming.batch;
  exchange->left = count;
  exchange->answers.resize(count);
  exchange->done = std::move(done);
  for (std::size_t i = 0; i < count; ++i)
    dispatch(exchange, i, std::move(incoming.requests[i]), owner, notify);
}

void Dispatcher::dispatch(const std::shared_ptr<Exchange>& exchange, std::size_t index,
                          rpc::Request request, Watcher::Owner owner, const Notify& notify) {
  const auto refuse = [&](const rpc::Failure& failure) {
    exchange->finish(index, request.notification ? "" : rpc::write_failure(request.id, failure));
  };
  if (request.failure) return refuse(*request.failure);
  const Verb* verb = find_verb(request.method, options_);
  if (!verb)
    return refuse({rpc::code::method_not_found,
                   fmt::format("unknown method {}", rpc::in_quotes(request.method)),
                   {}});
  if (const auto checked = check_params(verb->name, request.params, verb->params); !checked) {
    rpc::Failure failure = to_failure(checked.error());
    failure.code = rpc::code::invalid_params;
    return refuse(failure);
  }
  if (refusing_) return refuse(to_failure({Errc::shutdown, "the server is stopping"}));

  switch (verb->runs) {
    case Runs::here:
      return exchange->finish(index, run(*verb, request));
    case Runs::watch:
      return watch(*verb, exchange, index, request, owner, notify);
    case Runs::query:
    case Runs::change:
      break;
  }
  VerbPool& pool = verb->runs == Runs::change ? changes_ : queries_;
  const auto shared = std::make_shared<rpc::Request>(std::move(request));
  const bool taken = pool.submit([this, verb, shared, exchange, index] {
    // A function<> is copied: the text is shared, not copied with it.
    const auto text = std::make_shared<std::string>(run(*verb, *shared));
    post_([exchange, index, text] { exchange->finish(index, std::move(*text)); });
  });
  if (taken) return;
  request = std::move(*shared);
  refuse(to_failure({Errc::limit, fmt::format("{} requests wait already: try again later",
                                              options_.limits.queued_verbs)}));
}

void Dispatcher::watch(const Verb& verb, const std::shared_ptr<Exchange>& exchange,
                       std::size_t index, const rpc::Request& request, Watcher::Owner owner,
                       const Notify& notify) {
  const Params params(request.params);
  const auto reply = [this, exchange, index, id = request.id,
                      silent = request.notification](Result<Value> result) {
    exchange->finish(index, silent ? "" : answer(id, std::move(result)));
  };
  if (verb.name == "wait") return watcher_.wait(owner, params, Clock::now(), reply);
  watcher_.events(owner, params, reply, [notify](std::string_view method, const Value& value) {
    notify(rpc::write_notification(method, value));
  });
}

std::string Dispatcher::run(const Verb& verb, const rpc::Request& request) {
  try {
    std::string text = answer(request.id, verb.function(context_, Params(request.params)));
    return request.notification ? std::string() : text;
  } catch (const std::exception& exception) {
    // Memory ran out: the engine throws nothing of its own.
    return request.notification
               ? std::string()
               : rpc::write_failure(request.id, {rpc::code::internal_error,
                                                 fmt::format("{}: {}", verb.name, exception.what()),
                                                 {}});
  }
}

std::string Dispatcher::answer(const Value& id, Result<Value> result) const {
  if (!result) return rpc::write_failure(id, to_failure(result.error()));
  std::string text = rpc::write_result(id, *result);
  if (text.size() <= options_.limits.reply_bytes) return text;
  return rpc::write_failure(
      id, to_failure({Errc::limit,
                      fmt::format("the answer has {} bytes, over the limit of {}: ask for one "
                                  "device at a time",
                                  text.size(), options_.limits.reply_bytes)}));
}

}  // namespace blockloom::control
