// makedumpfile's diskdump_mod.h: header, sub header, two bitmaps, a descriptor of 24 bytes for each
// dumped page, pages.
#include "server/dump/kdump_extent.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include <fmt/format.h>

#include "proto/dump/bytes.hpp"
#include "proto/dump/vmcore.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t kdump_step = 1 << 20;
constexpr std::size_t descriptor = 24;

struct Numbers {
  bool little = true;
  std::uint32_t u32(const std::byte* p) const noexcept { return little ? le32(p) : be32(p); }
  std::uint64_t u64(const std::byte* p) const noexcept { return little ? le64(p) : be64(p); }
};

Error misfit(std::string_view what) {
  return {Errc::corrupt, fmt::format("a kdump-compressed dump that does not fit: {}", what)};
}

/// Reads [begin, end) in steps of whole things of `unit` bytes.
template <class Look>
Result<void> each_step(ImageReader& source, std::uint64_t begin, std::uint64_t end,
                       std::size_t unit, const std::function<bool()>& stop, Look look) {
  std::vector<std::byte> bytes(kdump_step / unit * unit);
  while (begin < end) {
    if (stop()) return Error{Errc::shutdown, "the server is stopping"};
    const std::size_t n = std::min<std::uint64_t>(bytes.size(), end - begin);
    auto got = source.read(begin, std::span(bytes).first(n));
    if (!got) return got.error();
    if (*got != n) return misfit("it ends too early");
    look(ByteView(bytes).first(n));
    begin += n;
  }
  return {};
}

}  // namespace

Result<std::uint64_t> kdump_end(ImageReader& source, std::uint64_t size,
                                const std::function<bool()>& stop) {
  std::vector<std::byte> head(kdump_header_bytes);
  auto got = source.read(0, head);
  if (!got) return got.error();
  const ByteView bytes = ByteView(head).first(*got);
  KdumpHeader header;
  if (!parse_kdump_header(bytes, header)) return misfit("its header");
  const std::byte* p = bytes.data();
  const Numbers in{le32(p + 8) < be32(p + 8)};
  const std::uint64_t block = header.block_size;
  if (header.version < 6 || bytes.size() < block + 104)
    return Error{Errc::not_supported,
                 fmt::format("a kdump-compressed dump of version {}: only version 6 says where it "
                             "ends",
                             header.version)};
  const std::byte* sub = p + block;
  if (in.u32(sub + 12) != 0)
    return Error{Errc::not_supported,
                 "a part of a split dump (makedumpfile --split): only a whole one is taken"};
  const std::uint64_t sub_blocks = in.u32(p + 432), bitmap_blocks = in.u32(p + 436);
  const std::uint64_t bitmaps = (1 + sub_blocks) * block, bitmap = bitmap_blocks * block / 2;
  const std::uint64_t descriptors = bitmaps + bitmap_blocks * block;
  if (sub_blocks == 0 || bitmap == 0 || descriptors > size) return misfit("its bitmaps");
  // The second bitmap has a bit for each page that is in the file.
  std::uint64_t pages = 0;
  auto done = each_step(source, bitmaps + bitmap, descriptors, 1, stop, [&](ByteView part) {
    for (const std::byte b : part)
      pages += static_cast<unsigned>(std::popcount(u8(&b)));
  });
  if (!done) return done.error();
  if (pages > (size - descriptors) / descriptor) return misfit("its page descriptors");
  std::uint64_t end = descriptors + pages * descriptor;
  bool fits = true;
  const auto reach = [&](std::uint64_t offset, std::uint64_t length) {
    fits = fits && offset <= size && length <= size - offset;
    if (fits) end = std::max(end, offset + length);
  };
  done = each_step(source, descriptors, end, descriptor, stop, [&](ByteView part) {
    for (std::size_t at = 0; at + descriptor <= part.size(); at += descriptor)
      reach(in.u64(part.data() + at), in.u32(part.data() + at + 8));
  });
  if (!done) return done.error();
  for (const std::size_t range : {32u, 48u, 64u})  // VMCOREINFO, notes, what was erased
    if (const std::uint64_t length = in.u64(sub + range + 8); length > 0)
      reach(in.u64(sub + range), length);
  if (!fits) return misfit("a page that lies behind the end of the device");
  return end;
}

}  // namespace blockloom::dump
