#include "server/leg/nbd_uri.hpp"

#include <doctest/doctest.h>

#include "server/base/backoff.hpp"
#include "server/leg/nbd_epoch.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

NbdUri parse(std::string_view text) {
  auto uri = parse_nbd_uri(text);
  REQUIRE_MESSAGE(uri, text << ": " << uri.error().message);
  return *uri;
}

std::string nbd_refusal(std::string_view text) {
  const auto uri = parse_nbd_uri(text);
  REQUIRE_FALSE_MESSAGE(uri, text);
  return uri.error().message;
}

}  // namespace

TEST_CASE("an NBD URI over TCP names host, port and export") {
  const NbdUri uri = parse("nbd://storage.example:10810/vol%201");
  CHECK(uri.transport == NbdUri::Transport::tcp);
  CHECK_FALSE(uri.tls);
  CHECK(uri.host == "storage.example");
  CHECK(uri.port == 10810);
  CHECK(uri.export_name == "vol 1");
  CHECK(uri.connections == 1);
  CHECK(uri.timeout == 30s);
  CHECK(uri.connect_timeout == 5s);
  CHECK(uri.server() == "nbd://storage.example:10810");
}

TEST_CASE("an NBD URI's port and export have defaults") {
  for (const auto* text : {"nbd://host", "nbd://host/"}) {
    const NbdUri uri = parse(text);
    CHECK(uri.port == 10809);
    CHECK(uri.export_name.empty());
  }
}

TEST_CASE("an NBD URI takes an IPv6 address in brackets") {
  const NbdUri uri = parse("nbd://[::1]:1000/x");
  CHECK(uri.host == "::1");
  CHECK(uri.port == 1000);
  CHECK(uri.server() == "nbd://[::1]:1000");
}

TEST_CASE("an NBD URI over a Unix socket names its path") {
  const NbdUri uri = parse("nbd+unix:///vol0?socket=/run/nbd%2ex.sock&connections=4");
  CHECK(uri.transport == NbdUri::Transport::unix_socket);
  CHECK(uri.socket == "/run/nbd.x.sock");
  CHECK(uri.export_name == "vol0");
  CHECK(uri.connections == 4);
  CHECK(uri.server() == "nbd+unix:/run/nbd.x.sock");
}

TEST_CASE("an NBD URI over vsock names a context's number") {
  const NbdUri uri = parse("nbd+vsock://2:10809/");
  CHECK(uri.transport == NbdUri::Transport::vsock);
  CHECK(uri.cid == 2);
}

TEST_CASE("an NBD URI with TLS takes a user, certificates or keys") {
  const NbdUri uri = parse("nbds://alice@host/x?tls-psk-file=/etc/keys.psk&tls-verify-peer=no");
  CHECK(uri.tls);
  CHECK(uri.user == "alice");
  CHECK(uri.tls_psk_file == "/etc/keys.psk");
  CHECK_FALSE(uri.tls_verify_peer);
  CHECK(parse("nbds+unix:///x?socket=/s&tls-certificates=/etc/pki").tls_certificates == "/etc/pki");
}

TEST_CASE("an NBD URI's times are bounded") {
  const NbdUri uri = parse("nbd://h/x?timeout_ms=250&connect_timeout_ms=100");
  CHECK(uri.timeout == 250ms);
  CHECK(uri.connect_timeout == 100ms);
  CHECK(nbd_refusal("nbd://h/x?timeout_ms=99") ==
        "timeout_ms '99': expected milliseconds from 100 to 3600000");
  CHECK(nbd_refusal("nbd://h/x?connect_timeout_ms=60001") ==
        "connect_timeout_ms '60001': expected milliseconds from 100 to 60000");
}

TEST_CASE("what is wrong in an NBD URI is named, with what was expected") {
  CHECK(nbd_refusal("nbd:host") ==
        "expected nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH");
  CHECK(nbd_refusal("nbd:///x") == "host '': expected a name or an address");
  CHECK(nbd_refusal("nbd://h:0/x") == "port ':0': expected a colon and a number from 1 to 65535");
  CHECK(nbd_refusal("nbd://h:/x") == "port ':': expected a colon and a number from 1 to 65535");
  CHECK(nbd_refusal("nbd://[::1/x") == "host '[::1': expected ] after an IPv6 address");
  CHECK(nbd_refusal("nbd://a@h/x") == "user 'a': expected a name, with TLS only");
  CHECK(nbd_refusal("nbd+unix:///x") == "expected a parameter socket=PATH");
  CHECK(nbd_refusal("nbd+unix://host/x?socket=/s") ==
        "host 'host': expected none between // and / where socket=PATH says the place");
  CHECK(nbd_refusal("nbd+unix:///x?socket=s") == "socket 's': expected an absolute path");
  CHECK(
      nbd_refusal("nbd+unix:///x?socket=/" + std::string(120, 's')).ends_with("at most 107 bytes"));
  CHECK(nbd_refusal("nbd://h/x?socket=/s") ==
        "parameter 'socket': expected it with nbd+unix: or nbds+unix: only");
  CHECK(nbd_refusal("nbd://h/x?tls-psk-file=/k") ==
        "TLS parameters: expected a scheme with TLS, such as nbds:");
  CHECK(nbd_refusal("nbds://h/x?tls-psk-file=/k&tls-certificates=/c") ==
        "expected tls-certificates or tls-psk-file, not both");
  CHECK(nbd_refusal("nbds://h/x?tls-psk-file=k") == "tls-psk-file 'k': expected an absolute path");
  CHECK(nbd_refusal("nbds://h/x?tls-verify-peer=maybe") ==
        "tls-verify-peer 'maybe': expected yes or no");
  CHECK(nbd_refusal("nbd://h/x?connections=17") ==
        "connections '17': expected a number from 1 to 16");
  CHECK(nbd_refusal("nbd://h/x?what") == "parameter 'what': expected NAME=VALUE");
  CHECK(nbd_refusal("nbd://h/x?what=1").starts_with("parameter 'what': expected socket, "));
  CHECK(nbd_refusal("nbd://h/%zz").starts_with("'%zz': expected two hexadecimal digits"));
  CHECK(nbd_refusal("nbd+vsock://host/x") ==
        "host 'host': expected the number of a vsock context (2 is the host)");
  CHECK(nbd_refusal("nbd://h/" + std::string(5000, 'x')).ends_with("expected at most 4032 bytes"));
}

TEST_CASE("only NBD's schemes are NBD URIs") {
  CHECK(is_nbd_uri("nbd://h"));
  CHECK(is_nbd_uri("nbds+vsock:"));
  CHECK_FALSE(is_nbd_uri("nbdx://h"));
  CHECK_FALSE(is_nbd_uri("/nbd://h"));
}

TEST_CASE("an export's name says whether it means an epoch") {
  const auto plain = parse_epoch_export("vol;epoc=1");
  REQUIRE(plain);
  CHECK(plain.value().kind == EpochExport::Kind::none);
  CHECK(plain.value().device == "vol;epoc=1");

  const std::string name = epoch_export("vol", 17);
  CHECK(name == "vol;epoch=17");
  const auto epoch = parse_epoch_export(name);
  REQUIRE(epoch);
  CHECK(epoch.value().kind == EpochExport::Kind::epoch);
  CHECK(epoch.value().device == "vol");
  CHECK(epoch.value().epoch == 17);

  const std::string question = epoch_query("");
  const auto query = parse_epoch_export(question);
  REQUIRE(query);
  CHECK(query.value().kind == EpochExport::Kind::query);
  CHECK(query.value().device.empty());

  for (const auto* bad : {"v;epoch=", "v;epoch=0", "v;epoch=-1", "v;epoch=1 ", "v;epoch=x",
                          "v;epoch=18446744073709551616"}) {
    const auto refusal = parse_epoch_export(bad);
    REQUIRE_FALSE(refusal);
    CHECK(refusal.error().message ==
          "export '" + std::string(bad) + "': expected a number from 1 on after ';epoch='");
  }
}

TEST_CASE("only an epoch's own words in a description prove that the server knows it") {
  CHECK(epoch_in_description(epoch_description(17, "")) == 17);
  CHECK(epoch_in_description(epoch_description(18, "the mail store")) == 18);
  CHECK(epoch_in_description(epoch_description(0, "x")) == 0);
  for (const auto* other : {"", "vol", "blockloom-epoch:17",
                            "blockloom-epoch: ", "blockloom-epoch: 17x", " blockloom-epoch: 17"})
    CHECK_FALSE(epoch_in_description(other));
}

TEST_CASE("pauses grow to their cap, are jittered by at most half, and begin again") {
  Backoff backoff(100ms, 1s, 42);
  Duration whole = 100ms;
  for (int i = 0; i < 10; ++i) {
    const Duration pause = backoff.next();
    CHECK(pause >= whole / 2);
    CHECK(pause <= whole);
    whole = std::min<Duration>(1s, whole * 2);
  }
  backoff.reset();
  CHECK(backoff.next() <= 100ms);
  CHECK(Backoff(100ms, 1s, 1).next() != Backoff(100ms, 1s, 2).next());
}
