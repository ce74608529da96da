#include "tests/bench/digest_session.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proto/iscsi/digest.hpp"
#include "proto/iscsi/text.hpp"

namespace blockloom::iscsi::load {
namespace {

constexpr std::uint32_t longest_segment = 256 << 10;
constexpr std::size_t buffer_size = 1 << 20;

void put_digest(std::uint32_t value, std::uint8_t* to) {
  for (int i = 0; i < 4; ++i)
    to[i] = static_cast<std::uint8_t>(value >> (8 * i));
}

}  // namespace

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "iscsi_digest_load: {}\n", what);
  std::exit(1);
}

Session::Session(Load& load, unsigned number) : load_(load), in_(buffer_size) {
  connect();
  log_in(number);
}

Session::~Session() {
  ::close(fd_);
}

void Session::connect() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(load_.settings.port);
  if (::inet_pton(AF_INET, load_.settings.host.c_str(), &address.sin_addr) != 1)
    die(fmt::format("'{}' is no IPv4 address", load_.settings.host));
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0 || ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    die(fmt::format("cannot connect to {}:{}", load_.settings.host, load_.settings.port));
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void Session::await(bool& flag) {
  const auto patience = Clock::now() + std::chrono::seconds(30);
  while (!flag) {
    pollfd poll{fd_, static_cast<short>(sending() ? POLLIN | POLLOUT : POLLIN), 0};
    ::poll(&poll, 1, 100);
    if ((poll.revents & POLLOUT) != 0) send();
    if ((poll.revents & (POLLIN | POLLHUP | POLLERR)) != 0) receive();
    if (Clock::now() > patience) die("no answer in 30 seconds");
  }
}

/// RFC 7143 11.12: one request, and the text of its response.
std::string Session::login_step(unsigned char stages, std::string text, unsigned number) {
  Out request;
  request.header.set8(0, 0x43);
  request.header.set8(1, stages);
  request.header.set8(8, 0x80);  // ISID, random format
  request.header.set16(12, static_cast<std::uint16_t>(number + 1));
  request.header.set32(24, cmd_sn_);
  request.header.set32(28, exp_stat_sn_);
  request.own = std::move(text);
  const auto length = static_cast<std::uint32_t>(request.own.size());
  answered_ = false;
  push(std::move(request), length);
  await(answered_);
  if (login_.u16(36) != 0) die(fmt::format("login refused: status {:04x}", login_.u16(36)));
  return {answer_.begin(), answer_.end()};
}

void Session::log_in(unsigned number) {
  const Settings& s = load_.settings;
  TextWriter security;
  security.add("InitiatorName", fmt::format("iqn.2026-01.org.blockloom:load{}", number));
  security.add("TargetName", s.target);
  security.add("SessionType", "Normal");
  security.add("AuthMethod", "None");
  login_step(0x81, security.take(), number);
  TextWriter keys;
  keys.add("HeaderDigest", s.header_digest ? "CRC32C" : "None");
  keys.add("DataDigest", s.data_digest ? "CRC32C" : "None");
  keys.add("InitialR2T", "Yes");
  keys.add("ImmediateData", "Yes");
  keys.add("MaxRecvDataSegmentLength", longest_segment);
  keys.add("MaxBurstLength", std::uint64_t{1} << 20);
  keys.add("FirstBurstLength", longest_segment);
  keys.add("MaxOutstandingR2T", 1);
  keys.add("ErrorRecoveryLevel", 0);
  take(login_step(0x87, keys.take(), number));
  for (int i = 0; (login_.u8(1) & 0x83) != 0x83; ++i) {
    if (i == 4) die("the target does not come to the full feature phase");
    take(login_step(0x87, {}, number));
  }
  header_digest_ = s.header_digest;
  data_digest_ = s.data_digest;
}

void Session::take(const std::string& keys) {
  const auto pairs = parse_text(keys);
  if (!pairs) die("the target's text is malformed");
  for (const auto& [key, value] : *pairs) {
    const auto number = static_cast<std::uint32_t>(parse_number(value).value_or(0));
    if (key == "MaxRecvDataSegmentLength") segment_ = std::min(number, longest_segment);
    if (key == "FirstBurstLength") first_burst_ = number;
    if (key == "ImmediateData") immediate_ = value == "Yes";
    if ((key == "HeaderDigest" && load_.settings.header_digest && value != "CRC32C") ||
        (key == "DataDigest" && load_.settings.data_digest && value != "CRC32C"))
      die(fmt::format("{}={}: the target wants no digest", key, value));
  }
}

void Session::push(Out pdu, std::uint32_t length) {
  pdu.header.set_data_length(length);
  if (header_digest_)
    put_digest(crc32c(pdu.header.bytes.data(), bhs_size), pdu.header_digest.data());
  out_.push_back(std::move(pdu));
  Out& kept = out_.back();  // where its own text stays
  if (!kept.own.empty()) kept.data = reinterpret_cast<const std::uint8_t*>(kept.own.data());
  if (length == 0) return;
  kept.tail_size = padded(length) - length;
  if (!data_digest_) return;
  Crc32c crc;
  crc.add(kept.data, length);
  crc.add_padding(length);
  put_digest(crc.value(), kept.tail.data() + kept.tail_size);
  kept.tail_size += digest_size;
}

void Session::send() {
  while (!out_.empty()) {
    std::array<iovec, 64> pieces{};
    std::size_t count = 0, skip = sent_;
    const auto add = [&](const void* data, std::size_t size) {
      const std::size_t gone = std::min(skip, size);
      skip -= gone;
      if (gone < size)
        pieces[count++] = {const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(data)) + gone,
                           size - gone};
    };
    const std::size_t head = header_digest_ ? digest_size : 0;
    for (auto pdu = out_.begin(); pdu != out_.end() && count + 4 <= pieces.size(); ++pdu) {
      add(pdu->header.bytes.data(), bhs_size);
      add(pdu->header_digest.data(), head);
      add(pdu->data, pdu->header.data_length());
      add(pdu->tail.data(), pdu->tail_size);
    }
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = count;
    const ssize_t n = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) die("the connection failed");
    sent_ += static_cast<std::size_t>(n);
    while (!out_.empty()) {
      const Out& first = out_.front();
      const std::size_t size = bhs_size + head + first.header.data_length() + first.tail_size;
      if (sent_ < size) break;
      sent_ -= size;
      out_.pop_front();
    }
  }
}

void Session::receive() {
  if (from_ == to_) from_ = to_ = 0;
  if (in_.size() - to_ < longest_segment + 4096) {
    std::copy(in_.begin() + static_cast<std::ptrdiff_t>(from_),
              in_.begin() + static_cast<std::ptrdiff_t>(to_), in_.begin());
    to_ -= from_;
    from_ = 0;
  }
  const ssize_t n = ::recv(fd_, in_.data() + to_, in_.size() - to_, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) die("the target closed the connection");
  to_ += static_cast<std::size_t>(n);
  while (pdu()) {
  }
}

/// Takes one out of the buffer, if all of it is there.
bool Session::pdu() {
  const std::size_t there = to_ - from_;
  const std::size_t head = bhs_size + (header_digest_ ? digest_size : 0);
  if (there < head) return false;
  const std::uint8_t* const at = in_.data() + from_;
  Bhs header;
  std::copy_n(at, bhs_size, header.bytes.begin());
  const std::uint32_t length = header.data_length();
  const std::size_t tail = length > 0 && data_digest_ ? digest_size : 0;
  if (length > longest_segment || header.ahs_length() != 0) die("a PDU that nobody asked for");
  const std::size_t whole = head + padded(length) + tail;
  if (there < whole) return false;
  std::array<std::uint8_t, digest_size> wanted{};
  put_digest(crc32c(at, bhs_size), wanted.data());
  if (header_digest_ && !std::equal(wanted.begin(), wanted.end(), at + bhs_size))
    die("a header digest is wrong");
  if (tail != 0) {
    put_digest(crc32c(at + head, padded(length)), wanted.data());
    if (!std::equal(wanted.begin(), wanted.end(), at + head + padded(length)))
      die("a data digest is wrong");
  }
  from_ += whole;
  handle(header, at + head, length);
  return true;
}

void Session::handle(const Bhs& header, const std::uint8_t* data, std::uint32_t length) {
  const bool with_status = header.opcode() != Opcode::r2t &&
                           (header.opcode() != Opcode::data_in || (header.u8(1) & flag::status));
  if (with_status) exp_stat_sn_ = header.u32(24) + 1;
  if (serial_less(max_cmd_sn_, header.u32(32))) max_cmd_sn_ = header.u32(32);
  switch (header.opcode()) {
    case Opcode::login_response:
      login_ = header;
      answer_.assign(data, data + length);
      answered_ = true;
      return;
    case Opcode::r2t:
      return data_out(header);
    case Opcode::data_in:
      if (slots_.empty()) answer_.assign(data, data + length);
      if ((header.u8(1) & flag::status) != 0) ended(header.itt(), header.u8(3));
      return;
    case Opcode::scsi_response:
      if (header.u8(2) != 0) die(fmt::format("a command failed: response {:02x}", header.u8(2)));
      return ended(header.itt(), header.u8(3));
    case Opcode::nop_in: {
      if (header.ttt() == no_tag) return;
      exp_stat_sn_ = header.u32(24);  // it took none
      Out pong;
      pong.header.set8(0, 0x40);
      pong.header.set8(1, flag::final);
      pong.header.set64(8, header.lun());
      pong.header.set32(16, no_tag);
      pong.header.set32(20, header.ttt());
      pong.header.set32(24, cmd_sn_);
      pong.header.set32(28, exp_stat_sn_);
      return push(std::move(pong), 0);
    }
    case Opcode::async_message:
      return;
    default:
      die(fmt::format("opcode {:02x} came", static_cast<unsigned>(header.opcode())));
  }
}

/// 11.7: what an R2T asks for.
void Session::data_out(const Bhs& r2t) {
  const std::uint32_t begin = r2t.u32(40), length = r2t.u32(44);
  if (r2t.itt() >= slots_.size() || begin > load_.settings.block ||
      length > load_.settings.block - begin)
    die("an R2T beyond the data");
  std::uint32_t number = 0;
  for (std::uint32_t at = begin; at < begin + length; ++number) {
    const std::uint32_t now = std::min(segment_, begin + length - at);
    Out pdu;
    pdu.header.set8(0, static_cast<std::uint8_t>(Opcode::data_out));
    pdu.header.set8(1, at + now == begin + length ? flag::final : 0);
    pdu.header.set64(8, r2t.lun());
    pdu.header.set32(16, r2t.itt());
    pdu.header.set32(20, r2t.ttt());
    pdu.header.set32(28, exp_stat_sn_);
    pdu.header.set32(36, number);
    pdu.header.set32(40, at);
    pdu.data = slots_[r2t.itt()].data.data() + at;
    push(std::move(pdu), now);
    at += now;
  }
}

void Session::command(std::uint32_t tag, const std::array<std::uint8_t, 16>& cdb, bool write,
                      std::uint32_t length, const std::uint8_t* data) {
  Out pdu;
  pdu.header.set8(0, static_cast<std::uint8_t>(Opcode::scsi_command));
  pdu.header.set8(1, static_cast<std::uint8_t>(flag::final | (write ? flag::write : flag::read) |
                                               1));  // simple
  pdu.header.set8(9, load_.settings.lun);
  pdu.header.set32(16, tag);
  pdu.header.set32(20, length);
  pdu.header.set32(24, cmd_sn_++);
  pdu.header.set32(28, exp_stat_sn_);
  std::copy(cdb.begin(), cdb.end(), pdu.header.bytes.begin() + 32);
  pdu.data = data;
  const std::uint32_t with = write && immediate_ ? std::min({length, segment_, first_burst_}) : 0;
  push(std::move(pdu), with);
}

std::uint64_t Session::capacity() {
  std::array<std::uint8_t, 16> cdb{0x9e, 0x10};
  cdb[13] = 32;
  for (int i = 0; i < 8; ++i) {  // unit attentions come first
    answered_ = false;
    command(0, cdb, false, 32, nullptr);
    await(answered_);
    if (status_ == 0 && answer_.size() >= 12) {
      Bhs number;
      std::copy_n(answer_.begin(), 12, number.bytes.begin());
      load_.sector = number.u32(8);
      return (number.u64(0) + 1) * load_.sector;
    }
  }
  die(fmt::format("READ CAPACITY(16): status {:02x}", status_));
}

void Session::start() {
  slots_.resize(load_.settings.depth);
  for (std::uint32_t tag = 0; tag < slots_.size(); ++tag) {
    slots_[tag].data.assign(load_.settings.block, static_cast<std::uint8_t>(tag + 1));
    issue(tag);
  }
}

void Session::issue(std::uint32_t tag) {
  if (serial_less(max_cmd_sn_, cmd_sn_)) return held_.push_back(tag);
  const std::uint32_t bytes = load_.settings.block;
  Bhs fields;
  fields.set8(0, load_.settings.write ? 0x8a : 0x88);
  fields.set64(2, load_.next_block() * (bytes / load_.sector));
  fields.set32(10, bytes / load_.sector);
  std::array<std::uint8_t, 16> cdb{};
  std::copy_n(fields.bytes.begin(), cdb.size(), cdb.begin());
  slots_[tag].started = Clock::now();
  ++under_way_;
  command(tag, cdb, load_.settings.write, bytes, slots_[tag].data.data());
}

void Session::ended(std::uint32_t tag, std::uint8_t status) {
  if (slots_.empty()) {
    status_ = status;
    answered_ = true;
    return;
  }
  if (tag >= slots_.size() || under_way_ == 0) die("an answer to nothing");
  if (status != 0) die(fmt::format("status {:02x}", status));
  --under_way_;
  ++load_.done;
  const auto now = Clock::now();
  const auto took =
      std::chrono::duration_cast<std::chrono::microseconds>(now - slots_[tag].started);
  load_.micros.push_back(static_cast<std::uint32_t>(took.count()));
  if (now >= load_.end) return;
  issue(tag);
  for (const std::uint32_t waiting : std::exchange(held_, {}))
    issue(waiting);
}

}  // namespace blockloom::iscsi::load
