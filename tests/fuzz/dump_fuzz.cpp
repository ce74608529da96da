// What comes from machines that crash, or say so: every parser of proto/dump.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/dump/flattened.hpp"
#include "proto/dump/kernel_dump_header.hpp"
#include "proto/dump/netconsole.hpp"
#include "proto/dump/netdump.hpp"
#include "proto/dump/panic_text.hpp"
#include "proto/dump/stream.hpp"
#include "proto/dump/vmcore.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom::dump;

namespace {

void packets(ByteView bytes) {
  NetdumpMessage message;
  if (parse_netdump(bytes, message) == NetdumpError::none) {
    demand(message.payload.size() + netdump_header_size == bytes.size());
    demand(message.offset + message.payload.size() >= message.offset);
    std::string path;
    if (message.type == NetdumpType::herald && parse_herald_path(message.payload, path)) {
      demand(path.empty() || path.front() != '/');
      demand(("/" + path + "/").find("/../") == std::string::npos);
    }
  }
}

void headers(ByteView bytes) {
  KernelDumpHeader header;
  if (parse_kernel_dump_header(bytes.first(std::min<std::size_t>(bytes.size(), 512)), header))
    demand(header.hostname.size() <= 64 && header.panic_string.size() <= 192);
  KernelDumpKey key;
  parse_kernel_dump_key(bytes, key);
  MinidumpMessages messages;
  if (find_minidump_messages(bytes, messages)) demand(messages.size <= (64u << 20));
  demand(text_of_message_ring(bytes).size() <= bytes.size());
  KdumpHeader kdump;
  parse_kdump_header(bytes, kdump);
  ElfNotes notes;
  find_elf_notes(bytes, notes);
  for (const bool little : {true, false}) {
    const std::string_view text = find_vmcoreinfo(bytes, little);
    demand(text.size() <= bytes.size());
    parse_vmcoreinfo(text);
  }
  parse_vmcoreinfo(as_text(bytes));
  sniff_image(bytes);
}

/// The image is the same however the stream is cut.
void flattened(ByteView bytes) {
  constexpr std::uint64_t largest = 1u << 20;
  // Most of an input would go into the header of 4096 bytes: it is made here.
  std::vector<std::byte> stream(flattened_header_size);
  std::copy_n(reinterpret_cast<const std::byte*>("makedumpfile"), 12, stream.begin());
  put_be64(stream.data() + 16, 1);
  put_be64(stream.data() + 24, 1);
  stream.insert(stream.end(), bytes.begin(), bytes.end());
  std::string images[2];
  FlattenedState states[2];
  FlattenedError errors[2];
  const std::size_t steps[2] = {stream.size(), 1 + bytes.size() % 29};
  for (int i = 0; i < 2; ++i) {
    FlattenedParser parser(largest);
    errors[i] = FlattenedError::none;
    for (std::size_t at = 0; at < stream.size() && errors[i] == FlattenedError::none;
         at += steps[i]) {
      std::vector<ImagePiece> pieces;
      errors[i] =
          parser.feed(ByteView(stream).subspan(at, std::min(steps[i], stream.size() - at)), pieces);
      for (const ImagePiece& piece : pieces) {
        demand(piece.offset + piece.bytes.size() <= largest);
        images[i].resize(std::max(images[i].size(), piece.offset + piece.bytes.size()));
        std::copy(piece.bytes.begin(), piece.bytes.end(),
                  reinterpret_cast<std::byte*>(images[i].data()) + piece.offset);
      }
    }
    states[i] = parser.state();
  }
  demand(errors[0] == errors[1]);
  demand(images[0] == images[1]);
  demand(states[0].ended == states[1].ended && states[0].image_end == states[1].image_end);
  FlattenedParser raw(largest);
  std::vector<ImagePiece> pieces;
  raw.feed(bytes, pieces);
}

void texts(std::string_view text) {
  NetconsoleReader reader;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t size = 1 + static_cast<unsigned char>(rest.front());
    for (const auto& line : reader.take(rest.substr(1, size)))
      demand(line.text.find('\n') == std::string::npos);
    rest.remove_prefix(std::min(rest.size(), size + 1));
  }
  reader.flush();
  const PanicText panic = find_panic(text);
  demand(panic.line.size() <= 512 && panic.line.empty() == panic.signature.empty());
  demand(normalised(text).size() <= text.size());
}

void stream(ByteView bytes) {
  StreamLines lines;
  if (parse_stream_lines(bytes, lines)) {
    StreamLines again;
    demand(parse_stream_lines(as_bytes(write_stream_lines(lines)), again));
    demand(again == lines);
  }
  StreamHello hello;
  if (parse_stream_hello(bytes, hello).empty()) {
    demand(!hello.host.empty() && hello.host.find('/') == std::string::npos);
    demand(hello.chunk >= wire::chunk_min && hello.chunk <= wire::chunk_max);
  }
  if (bytes.size() >= wire::header_size) {
    wire::Header header;
    if (wire::decode(reinterpret_cast<const unsigned char*>(bytes.data()), header)) {
      unsigned char out[wire::header_size];
      wire::encode(header, out);
      demand(
          std::equal(out, out + sizeof out, reinterpret_cast<const unsigned char*>(bytes.data())));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView bytes(reinterpret_cast<const std::byte*>(data), size);
  packets(bytes);
  headers(bytes);
  flattened(bytes);
  texts(as_text(bytes));
  stream(bytes);
  return 0;
}
