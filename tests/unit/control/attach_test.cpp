#include "server/control/attach.hpp"

#include <doctest/doctest.h>

using namespace blockloom::control;

TEST_CASE("TCP: every client gets its line") {
  const Attach lines = attach_lines({Endpoint::Kind::tcp, "127.0.0.1", 10809, false}, "vol0");
  CHECK(lines.uri == "nbd://127.0.0.1:10809/vol0");
  CHECK(lines.nbd_client == "nbd-client 127.0.0.1 10809 /dev/nbd0 -N vol0");
  CHECK(lines.nbdinfo == "nbdinfo nbd://127.0.0.1:10809/vol0");
  CHECK(lines.qemu ==
        "qemu-system-x86_64 -drive file=nbd://127.0.0.1:10809/vol0,format=raw,if=virtio");
  CHECK(lines.nbdtab == "nbd0 127.0.0.1 vol0 port=10809");
}

TEST_CASE("an IPv6 address is put in brackets where a port follows") {
  const Attach lines = attach_lines({Endpoint::Kind::tcp, "::1", 10809, false}, "a");
  CHECK(lines.uri == "nbd://[::1]:10809/a");
  CHECK(lines.nbd_client == "nbd-client ::1 10809 /dev/nbd0 -N a");
}

TEST_CASE("an address that means every address becomes this host's name") {
  for (const char* any : {"", "0.0.0.0", "::", "*"}) {
    const Attach lines = attach_lines({Endpoint::Kind::tcp, any, 10809, false}, "a");
    CHECK(lines.uri.find("nbd://") == 0);
    CHECK(lines.uri.find("//:") == std::string::npos);
    CHECK(lines.uri.find("0.0.0.0") == std::string::npos);
  }
}

TEST_CASE("Unix socket: the path goes where each client wants it") {
  const Attach lines =
      attach_lines({Endpoint::Kind::unix_socket, "/run/blockloom/nbd.sock", 0, false}, "vol0");
  CHECK(lines.uri == "nbd+unix:///vol0?socket=/run/blockloom/nbd.sock");
  CHECK(lines.nbd_client == "nbd-client -unix /run/blockloom/nbd.sock /dev/nbd0 -N vol0");
  CHECK(lines.nbdinfo == "nbdinfo 'nbd+unix:///vol0?socket=/run/blockloom/nbd.sock'");
  CHECK(lines.nbdtab == "nbd0 /run/blockloom/nbd.sock vol0 unix");
}

TEST_CASE("vsock: only libnbd's tools attach") {
  const Attach lines = attach_lines({Endpoint::Kind::vsock, "", 10809, false}, "vol0");
  CHECK(lines.uri == "nbd+vsock://2:10809/vol0");
  CHECK(lines.nbd_client.empty());
  CHECK(lines.qemu.empty());
  CHECK(lines.nbdtab.empty());
}

TEST_CASE("TLS: the URI says so, nbd-client gets its files, qemu and nbdtab have no line") {
  const Attach lines = attach_lines({Endpoint::Kind::tcp, "host", 10809, true}, "vol0");
  CHECK(lines.uri == "nbds://host:10809/vol0");
  CHECK(lines.nbd_client.find("-certfile") != std::string::npos);
  CHECK(lines.qemu.empty());
  CHECK(lines.nbdtab.empty());
}

TEST_CASE("a name that is no plain word is encoded, quoted, or has no line") {
  const Attach lines =
      attach_lines({Endpoint::Kind::tcp, "127.0.0.1", 1, false}, "my disk's $(rm), ü?");
  CHECK(lines.uri == "nbd://127.0.0.1:1/my%20disk%27s%20%24%28rm%29%2C%20%C3%BC%3F");
  CHECK(lines.nbd_client == "nbd-client 127.0.0.1 1 /dev/nbd0 -N 'my disk'\\''s $(rm), ü?'");
  CHECK(lines.nbdtab.empty());
}
