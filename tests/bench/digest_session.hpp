#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "proto/iscsi/pdu.hpp"

/// An initiator's session for iscsi_digest_load: reads or writes random blocks as fast as it can.
namespace blockloom::iscsi::load {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string host, target;
  std::uint16_t port = 3260;
  std::uint8_t lun = 0;
  bool write = false, header_digest = false, data_digest = false;
  std::uint32_t block = 4096;
  unsigned depth = 1, sessions = 1;
  double seconds = 3;
};

[[noreturn]] void die(const std::string& what);

struct Load {
  Settings settings;
  std::uint64_t blocks = 0;
  std::uint32_t sector = 512;
  std::uint64_t random = 0x9e3779b97f4a7c15ULL;
  std::uint64_t done = 0;
  std::vector<std::uint32_t> micros;
  Clock::time_point end;

  std::uint64_t next_block() {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return ((random >> 32) * blocks) >> 32;
  }
};

/// A PDU on its way out.
struct Out {
  Bhs header;
  std::array<std::uint8_t, digest_size> header_digest{};
  const std::uint8_t* data = nullptr;
  std::string own;  // data that nobody else keeps
  std::array<std::uint8_t, 4 + digest_size> tail{};
  std::size_t tail_size = 0;
};

class Session {
 public:
  /// Connects and logs in; `number` tells this initiator from others. Ends the program if it
  /// cannot, as everything here does.
  Session(Load& load, unsigned number);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  int fd() const { return fd_; }
  bool sending() const { return !out_.empty(); }
  unsigned under_way() const { return under_way_; }

  /// The LUN's bytes, and its blocks' size.
  std::uint64_t capacity();
  void start();
  void receive();
  void send();

 private:
  struct Slot {
    Clock::time_point started;
    std::vector<std::uint8_t> data;
  };

  void connect();
  void log_in(unsigned number);
  std::string login_step(unsigned char stages, std::string text, unsigned number);
  void take(const std::string& keys);
  void issue(std::uint32_t tag);
  void command(std::uint32_t tag, const std::array<std::uint8_t, 16>& cdb, bool write,
               std::uint32_t length, const std::uint8_t* data);
  void push(Out pdu, std::uint32_t length);
  bool pdu();
  void handle(const Bhs& header, const std::uint8_t* data, std::uint32_t length);
  void data_out(const Bhs& r2t);
  void ended(std::uint32_t tag, std::uint8_t status);
  void await(bool& flag);

  Load& load_;
  int fd_ = -1;
  bool header_digest_ = false, data_digest_ = false, immediate_ = true;
  std::uint32_t segment_ = 8192, first_burst_ = 65536;  // the target's
  std::uint32_t cmd_sn_ = 1, max_cmd_sn_ = 1, exp_stat_sn_ = 0;
  std::vector<std::uint8_t> in_;
  std::size_t from_ = 0, to_ = 0;
  std::deque<Out> out_;
  std::size_t sent_ = 0;  // of the first one
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> held_;  // no place in the target's window
  unsigned under_way_ = 0;
  bool answered_ = false;  // what a call waits for
  std::uint8_t status_ = 0;
  Bhs login_;
  std::vector<std::uint8_t> answer_;
};

}  // namespace blockloom::iscsi::load
