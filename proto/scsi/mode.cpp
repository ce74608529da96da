#include "proto/scsi/mode.hpp"

#include <algorithm>
#include <array>

namespace blockloom::scsi {
namespace {

constexpr std::uint8_t pages[] = {0x08, 0x0a, 0x1c};

/// The page with a set of values, or the mask of those that can be changed.
Output make_page(std::uint8_t code, const ModeValues& v, bool mask) {
  switch (code) {
    case 0x08: {  // caching, SBC-3 6.5.5
      Output page(20);
      page[0] = 0x08;
      page[1] = 18;
      page[2] = v.write_cache ? 0x04 : 0;
      return page;
    }
    case 0x0a: {  // control, SPC-4 7.5.8
      Output page(12);
      page[0] = 0x0a;
      page[1] = 10;
      page[2] = v.descriptor_sense ? 0x04 : 0;
      page[4] = v.software_protect ? 0x08 : 0;
      if (!mask) {
        page[2] |= 0x02;  // GLTSD: there are no log parameters to save
        page[3] = 0x10;   // queue algorithm: unrestricted reordering
        page[8] = page[9] = 0xff;
      }
      return page;
    }
    default: {  // informational exceptions, SPC-4 7.5.12: none are reported
      Output page(12);
      page[0] = 0x1c;
      page[1] = 10;
      if (!mask) page[2] = 0x08;  // DEXCPT
      return page;
    }
  }
}

void append_block_descriptor(Output& out, const ModeContext& context, bool long_lba) {
  if (long_lba) {
    append<8>(out, context.blocks);
    append<4>(out, 0);
    append<4>(out, context.block_size);
  } else {
    append<4>(out, std::min<std::uint64_t>(context.blocks, UINT32_MAX));
    append<4>(out, context.block_size);  // a reserved byte, and three of length
  }
}

/// Takes one page's values; where it is wrong, as an offset in the page.
std::optional<std::size_t> take_page(Input page, const ModeContext& context, ModeValues& values) {
  const Output current = make_page(page[0] & 0x3f, context.current, false);
  const Output changeable = make_page(page[0] & 0x3f, {true, true, true}, true);
  if ((page[0] & 0xc0) != 0) return 0;
  if (page[1] != current[1]) return 1;
  for (std::size_t i = 2; i < page.size(); ++i)
    if (((page[i] ^ current[i]) & ~changeable[i]) != 0) return i;
  if (page[0] == 0x08) values.write_cache = (page[2] & 0x04) != 0;
  if (page[0] == 0x0a) {
    values.descriptor_sense = (page[2] & 0x04) != 0;
    values.software_protect = (page[4] & 0x08) != 0;
  }
  return {};
}

/// The block descriptor may only repeat what is. Where it differs, or nothing.
std::optional<std::size_t> check_descriptor(Input d, const ModeContext& context) {
  const bool is_long = d.size() == 16;
  const std::uint64_t blocks = is_long ? load64(&d[0]) : load32(&d[0]);
  const std::uint32_t size = is_long ? load32(&d[12]) : load32(&d[4]) & 0xffffff;
  const std::uint64_t all = is_long ? UINT64_MAX : UINT32_MAX;
  if (blocks != 0 && blocks != all && blocks != context.blocks) return 0;
  if (size != context.block_size) return is_long ? 12 : 5;
  return {};
}

}  // namespace

std::optional<Output> mode_sense(const ModeSense& request, const ModeContext& context) {
  const bool all = request.page == 0x3f;
  if (!all && std::find(std::begin(pages), std::end(pages), request.page) == std::end(pages))
    return {};
  if (request.subpage != 0 && !(request.subpage == 0xff)) return {};
  Output out(request.ten ? 8 : 4);
  const std::uint8_t device = (context.write_protected ? 0x80 : 0) | 0x10;  // DPOFUA
  std::size_t descriptor = 0;
  if (!request.no_block_descriptor) {
    const std::size_t before = out.size();
    append_block_descriptor(out, context, request.ten && request.long_lba);
    descriptor = out.size() - before;
  }
  for (const std::uint8_t code : pages) {
    if (!all && code != request.page) continue;
    const bool mask = request.control == PageControl::changeable;
    const ModeValues& values = mask ? ModeValues{true, true, true}
                               : request.control == PageControl::defaults ? context.defaults
                                                                          : context.current;
    const Output page = make_page(code, values, mask);
    out.insert(out.end(), page.begin(), page.end());
  }
  if (request.ten) {
    store<2>(&out[0], out.size() - 2);
    out[3] = device;
    out[4] = request.long_lba && descriptor != 0 ? 1 : 0;
    store<2>(&out[6], descriptor);
  } else {
    out[0] = static_cast<std::uint8_t>(out.size() - 1);
    out[2] = device;
    out[3] = static_cast<std::uint8_t>(descriptor);
  }
  return out;
}

std::optional<Sense> mode_select(Input list, bool ten, const ModeContext& context,
                                 ModeValues& values) {
  if (list.empty()) return {};
  const std::size_t header = ten ? 8 : 4;
  if (list.size() < header) return bad_parameter_length();
  const std::size_t descriptor = ten ? load16(&list[6]) : list[3];
  const bool long_lba = ten && (list[4] & 1) != 0;
  if (descriptor != 0 && descriptor != (long_lba ? 16u : 8u)) return bad_parameter(ten ? 6 : 3);
  if (list.size() < header + descriptor) return bad_parameter_length();
  if (descriptor != 0)
    if (const auto at = check_descriptor(list.subspan(header, descriptor), context))
      return bad_parameter(header + *at);

  ModeValues changed = context.current;
  for (std::size_t at = header + descriptor; at < list.size();) {
    const Input rest = list.subspan(at);
    if (rest.size() < 2) return bad_parameter_length();
    if (std::find(std::begin(pages), std::end(pages), rest[0] & 0x3f) == std::end(pages))
      return bad_parameter(at);
    const std::size_t size = std::size_t{2} + rest[1];
    if (rest.size() < size) return bad_parameter_length();
    if (const auto wrong = take_page(rest.first(size), context, changed))
      return bad_parameter(at + *wrong);
    at += size;
  }
  values = changed;
  return {};
}

}  // namespace blockloom::scsi
