#pragma once

#include <cstdint>
#include <cstdlib>

#include "proto/dump/sha256.hpp"
#include "proto/dump/stream_wire.hpp"

namespace blockloom::sender {

namespace wire = dump::wire;

/// The CRC of each chunk, for the digest at the end.
class Sums {
 public:
  ~Sums() { std::free(crcs_); }
  bool set(std::uint64_t index, std::uint32_t crc) {
    if (index >= room_) {
      const std::uint64_t room = room_ == 0 ? 4096 : 2 * room_;
      void* const more = std::realloc(crcs_, room * sizeof *crcs_);
      if (more == nullptr) return false;
      crcs_ = static_cast<std::uint32_t*>(more);
      room_ = room;
    }
    crcs_[index] = crc;
    if (index >= count_) count_ = index + 1;
    return true;
  }
  void digest(std::uint64_t length, unsigned char out[wire::digest_size]) const {
    dump::Sha256 sum;
    unsigned char bytes[8];
    for (std::uint64_t i = 0; i < count_; ++i) {
      wire::put(bytes, crcs_[i], 4);
      sum.add(bytes, 4);
    }
    wire::put(bytes, length, 8);
    sum.add(bytes, 8);
    sum.finish(out);
  }

 private:
  std::uint32_t* crcs_ = nullptr;
  std::uint64_t room_ = 0, count_ = 0;
};

}  // namespace blockloom::sender
