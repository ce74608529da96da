#include "proto/iscsi/login.hpp"

#include <algorithm>

namespace blockloom::iscsi {
namespace {

const KeyValue* find(const std::vector<KeyValue>& pairs, std::string_view key) {
  const auto found =
      std::find_if(pairs.begin(), pairs.end(), [&](const KeyValue& p) { return p.key == key; });
  return found == pairs.end() ? nullptr : &*found;
}

bool names_somebody(std::string_view key) {
  return key == "InitiatorName" || key == "TargetName" || key == "SessionType";
}

bool is_security_key(std::string_view key) {
  return key == "AuthMethod" || key == "CHAP_A" || key == "CHAP_I" || key == "CHAP_C" ||
         key == "CHAP_N" || key == "CHAP_R";
}

}  // namespace

bool is_iscsi_name(std::string_view name) noexcept {
  const auto hex = [&](std::size_t digits) {
    return name.size() == 4 + digits && std::all_of(name.begin() + 4, name.end(), [](char c) {
             return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
           });
  };
  if (name.size() > 223) return false;
  if (name.starts_with("eui.")) return hex(16);
  if (name.starts_with("naa.")) return hex(16) || hex(32);
  // After stringprep: no spaces, no control characters, no ASCII punctuation but .-: (and what
  // is beyond ASCII, which is compared as bytes).
  return name.starts_with("iqn.") && name.size() > 4 &&
         std::all_of(name.begin(), name.end(), [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
                  (byte >= 'A' && byte <= 'Z') || byte == '.' || byte == '-' || byte == ':' ||
                  byte == '_';
         });
}

LoginStatus Login::check_header(const Bhs& request) {
  const std::uint8_t bits = request.u8(1);
  const unsigned current = bits >> 2 & 3, next = bits & 3;
  const bool transit = (bits & flag::final) != 0, more = (bits & flag::more) != 0;
  if (request.u8(3) > 0)
    return because(LoginStatus::unsupported_version, "a version of iSCSI that is not 0");
  const std::uint64_t isid = request.u64(8) >> 16;
  if (!started_) {
    started_ = true;
    if (current > 1) return because(LoginStatus::initiator_error, "login begins in no known stage");
    stage_ = static_cast<Stage>(current);
    itt_ = request.itt();
    cmd_sn_ = request.cmd_sn();
    identity_.isid = isid;
    identity_.tsih = request.u16(14);
    identity_.cid = request.u16(20);
  } else if (request.itt() != itt_ || isid != identity_.isid || request.u16(14) != identity_.tsih ||
             request.u16(20) != identity_.cid) {
    return because(LoginStatus::invalid_request, "ITT, ISID, TSIH or CID changed during login");
  }
  if (current != static_cast<unsigned>(stage_))
    return because(LoginStatus::initiator_error, "the initiator is in another stage of login");
  if (transit && (more || next == 2 || next <= current))
    return because(LoginStatus::initiator_error, "an impossible change of login's stage");
  if (++requests_ > max_requests)
    return because(LoginStatus::initiator_error, "login takes too many requests");
  return LoginStatus::success;
}

Login::Response Login::step(const Bhs& request, std::string_view data) {
  last_ = request;
  if (const LoginStatus status = check_header(request); status != LoginStatus::success)
    return fail(request, status);
  TextWriter answer;
  if (!text_.add(data)) {
    because(LoginStatus::initiator_error, "login's text is too long");
    return fail(request, LoginStatus::initiator_error);
  }
  const std::uint8_t bits = request.u8(1);
  if ((bits & flag::more) != 0) return respond(request, answer, false, stage_);

  const std::string whole = text_.text();
  text_.clear();
  const auto pairs = parse_text(whole);
  LoginStatus status = LoginStatus::success;
  if (!pairs) status = because(LoginStatus::initiator_error, "login's text is malformed");
  if (status == LoginStatus::success && !identified_) status = identify(*pairs);
  if (status == LoginStatus::success) status = take_keys(*pairs, answer);
  if (status != LoginStatus::success) return fail(request, status);

  const bool wants = (bits & flag::final) != 0;
  if (wants && must_authenticate() && auth_ == Auth::open) {
    because(LoginStatus::authentication_failed, "the initiator did not authenticate itself");
    return fail(request, LoginStatus::authentication_failed);
  }
  const bool transit = wants && !must_authenticate();
  return respond(request, answer, transit, static_cast<Stage>(bits & 3));
}

LoginStatus Login::identify(const std::vector<KeyValue>& pairs) {
  const KeyValue* const initiator = find(pairs, "InitiatorName");
  const KeyValue* const target = find(pairs, "TargetName");
  const KeyValue* const type = find(pairs, "SessionType");
  if (initiator == nullptr)
    return because(LoginStatus::missing_parameter, "the initiator did not say its name");
  if (!is_iscsi_name(initiator->value))
    return because(LoginStatus::initiator_error, "the initiator's name is no iSCSI name");
  identity_.initiator = initiator->value;
  if (type != nullptr && type->value != "Normal" && type->value != "Discovery")
    return because(LoginStatus::session_type, "a session that is neither normal nor discovery");
  identity_.discovery = type != nullptr && type->value == "Discovery";
  if (!identity_.discovery) {
    if (target == nullptr)
      return because(LoginStatus::missing_parameter, "the initiator named no target");
    identity_.target = target->value.substr(0, 224);
  }
  identified_ = true;
  verdict_ = policy_.judge(identity_);
  keys_.emplace(verdict_.offers, identity_.discovery);
  if (verdict_.status != LoginStatus::success)
    return because(verdict_.status, "the target refuses this initiator");
  if (stage_ == Stage::operational && must_authenticate())
    return because(LoginStatus::authentication_failed, "the initiator did not authenticate itself");
  return LoginStatus::success;
}

LoginStatus Login::take_keys(const std::vector<KeyValue>& pairs, TextWriter& answer) {
  if (!said_group_) {
    said_group_ = true;
    if (!identity_.discovery) {
      answer.add("TargetPortalGroupTag", std::uint64_t{verdict_.portal_group});
      if (!verdict_.alias.empty()) answer.add("TargetAlias", verdict_.alias);
    }
  }
  if (stage_ == Stage::security) {
    if (const auto status = take_security(pairs, answer); status != LoginStatus::success)
      return status;
  }
  for (const KeyValue& pair : pairs) {
    if (names_somebody(pair.key)) continue;
    const bool security = is_security_key(pair.key);
    if (stage_ == Stage::security && security) continue;  // taken above
    const bool alias = pair.key == "InitiatorAlias";
    if (security || (stage_ == Stage::security && KeyNegotiation::knows(pair.key) && !alias))
      return because(LoginStatus::initiator_error,
                     "the key " + std::string(pair.key) + " does not belong to this stage");
    if (const auto status = keys_->take(pair, answer); status != LoginStatus::success)
      return because(status, "the key " + std::string(pair.key) +
                                 " came twice, or no value that is allowed was offered");
  }
  if (stage_ == Stage::operational) keys_->declare(answer);
  return LoginStatus::success;
}

LoginStatus Login::take_security(const std::vector<KeyValue>& pairs, TextWriter& answer) {
  for (const KeyValue& pair : pairs) {
    const auto same = [&](const KeyValue& p) { return p.key == pair.key; };
    if (is_security_key(pair.key) && std::count_if(pairs.begin(), pairs.end(), same) > 1)
      return because(LoginStatus::initiator_error, "a security key came twice");
  }
  if (const KeyValue* const method = find(pairs, "AuthMethod")) {
    if (auth_ != Auth::open) return because(LoginStatus::initiator_error, "AuthMethod came twice");
    if (const auto status = take_method(method->value, answer); status != LoginStatus::success)
      return status;
  }
  if (const KeyValue* const list = find(pairs, "CHAP_A")) {
    if (auth_ != Auth::method)
      return because(LoginStatus::initiator_error, "CHAP_A came out of order");
    return take_algorithms(list->value, answer);
  }
  if (find(pairs, "CHAP_N") != nullptr || find(pairs, "CHAP_R") != nullptr)
    return take_proof(pairs, answer);
  if (auth_ == Auth::challenged)
    return because(LoginStatus::authentication_failed, "the initiator did not answer CHAP");
  return LoginStatus::success;
}

LoginStatus Login::take_method(std::string_view offered, TextWriter& answer) {
  const auto methods = split_list(offered);
  const auto has = [&](std::string_view name) {
    return std::find(methods.begin(), methods.end(), name) != methods.end();
  };
  if (verdict_.chap && verdict_.chap->required()) {
    if (!has("CHAP"))
      return because(LoginStatus::authentication_failed, "the initiator does not offer CHAP");
    answer.add("AuthMethod", "CHAP");
    auth_ = Auth::method;
    chap_.emplace(*verdict_.chap);
    return LoginStatus::success;
  }
  if (!has("None"))
    return because(LoginStatus::authentication_failed,
                   "the initiator insists on authentication, and none is configured");
  answer.add("AuthMethod", "None");
  auth_ = Auth::done;
  return LoginStatus::success;
}

LoginStatus Login::take_algorithms(std::string_view list, TextWriter& answer) {
  if (!chap_->choose(list, policy_.random(33)))
    return because(LoginStatus::authentication_failed, chap_->why());
  auth_ = Auth::challenged;
  answer.add("CHAP_A", std::uint64_t{static_cast<unsigned>(chap_->algorithm())});
  answer.add("CHAP_I", std::uint64_t{chap_->identifier()});
  answer.add("CHAP_C", encode_hex(chap_->challenge()));
  return LoginStatus::success;
}

LoginStatus Login::take_proof(const std::vector<KeyValue>& pairs, TextWriter& answer) {
  const KeyValue* const name = find(pairs, "CHAP_N");
  const KeyValue* const response = find(pairs, "CHAP_R");
  const KeyValue* const identifier = find(pairs, "CHAP_I");
  const KeyValue* const challenge = find(pairs, "CHAP_C");
  if (auth_ != Auth::challenged || name == nullptr || response == nullptr ||
      (identifier == nullptr) != (challenge == nullptr))
    return because(LoginStatus::authentication_failed, "CHAP's keys are incomplete");
  // First, so that a reflected challenge never earns an answer.
  std::optional<Chap::Proof> proof;
  if (challenge != nullptr) {
    proof = chap_->prove(identifier->value, challenge->value);
    if (!proof) return because(LoginStatus::authentication_failed, chap_->why());
  }
  if (!chap_->verify(name->value, response->value))
    return because(LoginStatus::authentication_failed, chap_->why());
  if (proof) {
    answer.add("CHAP_N", proof->name);
    answer.add("CHAP_R", encode_hex(proof->response));
  }
  auth_ = Auth::done;
  chap_user_ = chap_->user();
  return LoginStatus::success;
}

Login::Response Login::respond(const Bhs& request, TextWriter& answer, bool transit, Stage next) {
  Response response;
  response.header =
      make_response(Opcode::login_response, itt_, {stat_sn_++, cmd_sn_, cmd_sn_ + window_ - 1});
  auto bits = static_cast<std::uint8_t>(static_cast<unsigned>(stage_) << 2);
  if (transit) {
    bits |= flag::final | static_cast<std::uint8_t>(next);
    stage_ = next;
    if (next == Stage::full_feature) state_ = State::done;
  }
  response.header.set8(1, bits);
  std::copy_n(request.bytes.begin() + 8, 8, response.header.bytes.begin() + 8);
  response.data = answer.take();
  response.header.set_data_length(static_cast<std::uint32_t>(response.data.size()));
  return response;
}

Login::Response Login::fail(const Bhs& request, LoginStatus status) {
  state_ = State::failed;
  status_ = status;
  Response response;
  response.header = make_response(Opcode::login_response, request.itt(),
                                  {stat_sn_++, cmd_sn_, cmd_sn_ + window_ - 1});
  response.header.set8(1, request.u8(1) & 0x0c);
  std::copy_n(request.bytes.begin() + 8, 8, response.header.bytes.begin() + 8);
  response.header.set16(36, static_cast<std::uint16_t>(status));
  if (!verdict_.redirect.empty() && status == verdict_.status) {
    TextWriter where;
    where.add("TargetAddress", verdict_.redirect);
    response.data = where.take();
    response.header.set_data_length(static_cast<std::uint32_t>(response.data.size()));
  }
  return response;
}

Login::Response Login::refuse(LoginStatus status) {
  return fail(last_, status);
}

}  // namespace blockloom::iscsi
