#include "server/dump/netconsole_logs.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/dump/panic_text.hpp"
#include "server/base/log.hpp"
#include "server/dump/reception.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t unwritten_max = 1u << 20;  // of one sender, while the disk is slow

std::string stamp(double wall) {
  const std::tm utc = utc_of(wall);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace

void NetconsoleLogs::take(const Address& from, std::string_view datagram, TimePoint now,
                          double wall) {
  const std::lock_guard lock(mutex_);
  auto found = senders_.find(from);
  if (found == senders_.end()) {
    if (senders_.size() >= limits_.senders)
      std::erase_if(senders_, [&](const auto& s) {
        return now - s.second.heard > limits_.kept && s.second.unwritten.empty();
      });
    if (senders_.size() >= limits_.senders) {
      ++dropped_;
      return;
    }
    found = senders_.try_emplace(from).first;
  }
  Sender& sender = found->second;
  sender.heard = now;
  sender.flushed = false;
  add(sender, sender.reader.take(datagram), now, wall);
}

void NetconsoleLogs::add(Sender& sender, const std::vector<NetconsoleReader::Line>& lines,
                         TimePoint now, double wall) {
  for (const NetconsoleReader::Line& line : lines) {
    std::string text = line.timed ? fmt::format("[{:5}.{:06}] {}\n", line.usec / 1'000'000,
                                                line.usec % 1'000'000, line.text)
                                  : line.text + "\n";
    if (sender.unwritten.size() < unwritten_max)
      sender.unwritten += fmt::format("{} {}", stamp(wall), text);
    sender.bytes += text.size();
    sender.lines.push_back({now, std::move(text)});
  }
  while (!sender.lines.empty() &&
         (sender.bytes > limits_.bytes || now - sender.lines.front().at > limits_.kept)) {
    sender.bytes -= sender.lines.front().text.size();
    sender.lines.pop_front();
  }
}

void NetconsoleLogs::tick(TimePoint now, double wall) {
  const std::lock_guard lock(mutex_);
  for (auto& [address, sender] : senders_) {
    if (sender.flushed || now - sender.heard < limits_.partial) continue;
    sender.flushed = true;
    add(sender, sender.reader.flush(), now, wall);
  }
}

std::string NetconsoleLogs::recent(const Address& from, TimePoint now) const {
  const std::lock_guard lock(mutex_);
  const auto found = senders_.find(from);
  std::string text;
  if (found == senders_.end()) return text;
  for (const Line& line : found->second.lines)
    if (now - line.at <= limits_.kept) text += line.text;
  return text;
}

std::map<Address, std::string> NetconsoleLogs::take_unwritten() {
  const std::lock_guard lock(mutex_);
  std::map<Address, std::string> all;
  for (auto& [address, sender] : senders_)
    if (!sender.unwritten.empty()) all[address] = std::exchange(sender.unwritten, {});
  return all;
}

std::uint64_t NetconsoleLogs::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

void join_console(const NetconsoleLogs& logs, Reception& reception, const Address& address) {
  const std::string text = logs.recent(address, Clock::now());
  if (text.empty()) return;
  if (auto put = reception.put_file("netconsole.log", text); !put)
    return log_warning(put.error().message);
  Record& record = reception.record();
  record.netconsole = true;
  const PanicText panic = find_panic(text);
  if (record.panic.empty() && !panic.line.empty()) {
    record.panic = panic.line;
    record.signature = panic.signature;
  }
  if (auto saved = reception.save(); !saved) log_warning(saved.error().message);
}

}  // namespace blockloom::dump
