#include "server/iscsi/session.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace blockloom::iscsi {
namespace {

constexpr std::size_t max_kept_pdus = 64;

}  // namespace

bool ControlPdu::next_frame(Frame& frame) noexcept {
  const Serials serials = session.serials(status);
  frame.header = header;
  frame.header.set32(24, serials.stat_sn);
  frame.header.set32(28, serials.exp_cmd_sn);
  frame.header.set32(32, serials.max_cmd_sn);
  frame.data = reinterpret_cast<const std::byte*>(data.data());
  frame.length = static_cast<std::uint32_t>(data.size());
  frame.header.set_data_length(frame.length);
  return true;
}

Session::Session(SessionHost& host, SendQueue& sends, Receiver& receiver, const Start& start)
    : host_(host),
      sends_(sends),
      receiver_(receiver),
      agreed_(start.parameters),
      window_(start.window),
      data_bytes_(start.data_bytes),
      discovery_(start.discovery),
      stat_sn_(start.stat_sn),
      exp_cmd_sn_(start.cmd_sn) {}

Session::~Session() {
  while (free_pdus_ != nullptr)
    delete std::exchange(free_pdus_, free_pdus_->next_free);
}

Serials Session::serials(bool status) noexcept {
  return {status ? stat_sn_++ : stat_sn_, exp_cmd_sn_, exp_cmd_sn_ + window_ - outstanding_ - 1};
}

std::span<std::byte> Session::header(const Bhs& header, std::span<const std::uint8_t> ahs) {
  header_ = header;
  current_ = nullptr;
  switch (header.opcode()) {
    case Opcode::scsi_command:
      return command_header(header, ahs);
    case Opcode::data_out:
      return data_header(header);
    case Opcode::nop_out:
    case Opcode::task_management:
    case Opcode::text:
    case Opcode::logout:
      kind_ = Kind::control;
      control_data_.resize(header.data_length());
      return std::as_writable_bytes(std::span(control_data_));
    case Opcode::snack:
      kind_ = Kind::ignored;
      reject(RejectReason::snack, header);  // error recovery level 0
      return {};
    case Opcode::login:
      kind_ = Kind::ignored;
      reject(RejectReason::protocol_error, header);
      return {};
    default:
      kind_ = Kind::ignored;
      reject(RejectReason::not_supported, header);
      return {};
  }
}

void Session::end(bool digest_good) {
  switch (std::exchange(kind_, Kind::ignored)) {
    case Kind::command:
      return command_end(digest_good);
    case Kind::data:
      return data_end(digest_good);
    case Kind::control:
      if (digest_good) return control_end();
      return reject(RejectReason::data_digest, header_);
    case Kind::ignored:
      return;
  }
}

ControlPdu& Session::send(const Bhs& header, std::string data, bool status) {
  ControlPdu* pdu = free_pdus_;
  if (pdu != nullptr) {
    free_pdus_ = pdu->next_free;
    --kept_pdus_;
  } else {
    pdu = new ControlPdu(*this);
  }
  pdu->header = header;
  pdu->data = std::move(data);
  pdu->status = status;
  sends_.push(*pdu);
  host_.send_soon();
  return *pdu;
}

void Session::release(ControlPdu& pdu) noexcept {
  if (kept_pdus_ == max_kept_pdus) {
    delete &pdu;
    return;
  }
  pdu.data.clear();
  pdu.next_free = free_pdus_;
  free_pdus_ = &pdu;
  ++kept_pdus_;
}

void Session::reject(RejectReason reason, const Bhs& header) {
  counts_.rejects.store(counts_.rejects.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  send(make_reject(reason, {}),
       std::string(reinterpret_cast<const char*>(header.bytes.data()), bhs_size));
}

void Session::tell(AsyncEvent event, std::uint16_t parameter1, std::uint16_t parameter2,
                   std::uint16_t parameter3) {
  send(make_async(event, {}, parameter1, parameter2, parameter3));
}

void Session::ping() {
  if (ping_ttt_ != no_tag || discovery_) return;
  if (++next_ttt_ == no_tag) next_ttt_ = 1;
  ping_ttt_ = next_ttt_;
  Bhs header = make_response(Opcode::nop_in, no_tag, {});
  header.set32(20, ping_ttt_);
  send(header, {}, false);
}

void Session::control_end() {
  const bool reserved_itt = header_.itt() == no_tag;
  if (header_.opcode() == Opcode::nop_out && reserved_itt) {
    if (header_.ttt() == ping_ttt_) ping_ttt_ = no_tag;
    return;  // an answer, or a sign of life: nothing is due
  }
  if (reserved_itt) return reject(RejectReason::protocol_error, header_);
  if (!take_number(header_)) return;
  if (!header_.immediate()) --outstanding_;
  switch (header_.opcode()) {
    case Opcode::nop_out:
      return nop_out();
    case Opcode::text:
      return text();
    case Opcode::logout:
      return logout();
    default:
      return task_management();
  }
}

void Session::nop_out() {
  Bhs header = make_response(Opcode::nop_in, header_.itt(), {});
  header.set32(20, no_tag);
  if (control_data_.size() > agreed_.send_segment) control_data_.resize(agreed_.send_segment);
  send(header, control_data_);
}

void Session::text() {
  const std::uint8_t bits = header_.u8(1);
  const bool more = (bits & flag::more) != 0;
  if (header_.ttt() == no_tag) {  // a new exchange; the one before is over
    text_.clear();
    text_answer_.clear();
    text_itt_ = header_.itt();
  } else if (header_.ttt() != text_ttt_ || header_.itt() != text_itt_) {
    return reject(RejectReason::protocol_error, header_);
  }
  if (!text_answer_.empty()) return send_text_answer(header_.itt());
  if ((header_.final() && more) || !text_.add(control_data_))
    return reject(RejectReason::protocol_error, header_);
  if (more) {
    if (++next_ttt_ == no_tag) next_ttt_ = 1;
    text_ttt_ = next_ttt_;
    Bhs header = make_response(Opcode::text_response, header_.itt(), {});
    header.set8(1, 0);
    header.set32(20, text_ttt_);
    send(header);
    return;
  }
  const std::string whole = text_.text();
  text_.clear();
  const auto pairs = parse_text(whole);
  if (!pairs) return reject(RejectReason::invalid_field, header_);
  TextWriter answer;
  for (const KeyValue& pair : *pairs) {
    if (pair.key == "SendTargets") {
      host_.send_targets(pair.value, answer);
    } else if (pair.key == "MaxRecvDataSegmentLength") {
      if (!take_segment_length(pair.value, agreed_)) answer.add(pair.key, "Reject");
    } else if (pair.key != "InitiatorAlias") {
      // Everything else is settled in login (RFC 7143 section 13).
      answer.add(pair.key, KeyNegotiation::knows(pair.key) ? "Reject" : "NotUnderstood");
    }
  }
  text_answer_ = answer.take();
  send_text_answer(header_.itt());
}

void Session::send_text_answer(std::uint32_t itt) {
  const std::size_t now = std::min<std::size_t>(text_answer_.size(), agreed_.send_segment);
  Bhs header = make_response(Opcode::text_response, itt, {});
  std::string data = text_answer_.substr(0, now);
  text_answer_.erase(0, now);
  text_ttt_ = no_tag;
  if (!text_answer_.empty()) {
    if (++next_ttt_ == no_tag) next_ttt_ = 1;
    text_ttt_ = next_ttt_;
    header.set8(1, flag::more);
  }
  header.set32(20, text_ttt_);
  send(header, std::move(data));
}

void Session::logout() {
  const auto reason = static_cast<LogoutReason>(header_.u8(1) & 0x7f);
  Bhs response = make_response(Opcode::logout_response, header_.itt(), {});
  if (logging_out_) return reject(RejectReason::protocol_error, header_);
  if (reason != LogoutReason::session && reason != LogoutReason::connection) {
    response.set8(2, static_cast<std::uint8_t>(LogoutResponse::no_recovery));
    send(response);
    return;
  }
  // The session has one connection: whichever the reason, all of it ends.
  response.set16(40, agreed_.default_time2wait);
  logout_ = response;
  logging_out_ = true;
  if (lost_ || discovery_) return answer_logout();
  nexus_lost();
}

void Session::answer_logout() {
  send(logout_);
  host_.finish({});
}

}  // namespace blockloom::iscsi
