#pragma once

#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <sys/types.h>

#include "proto/control/message.hpp"
#include "server/control/server.hpp"
#include "server/device/registry.hpp"

/// A folder that goes with the test.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

/// A client with a socket of its own, that waits at most half a minute for anything.
class TestClient {
 public:
  explicit TestClient(const std::string& path, int receive_buffer = 0);
  ~TestClient();
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  /// False once the server has closed the connection.
  bool send(std::string_view bytes);
  /// The next line; empty at the end of the stream.
  std::string line();
  /// Sends a call and reads one line.
  blockloom::rpc::Reply call(std::string_view method, std::string_view params = "{}");
  blockloom::rpc::Reply reply();
  void half_close();
  /// Reads until the end of the stream; false if it does not come.
  bool at_end();

 private:
  int fd_ = -1;
  std::string buffer_;
  int next_id_ = 1;
};

/// The name of the error that a call was answered with.
inline std::string errc_of(const blockloom::rpc::Reply& reply) {
  REQUIRE_MESSAGE(reply.failure, to_text(reply.result));
  return reply.failure->data["errc"].text();
}

/// A registry and a control server on it, in a folder of its own.
struct TestServer {
  explicit TestServer(blockloom::control::Options options = {});
  TempFolder folder;
  blockloom::Registry registry;
  std::string path;
  blockloom::control::Server server;
};
