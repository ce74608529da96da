#include "proto/dump/panic_text.hpp"

#include <doctest/doctest.h>

using namespace blockloom::dump;

namespace {

constexpr const char* oops =
    R"([  100.000001] BUG: kernel NULL pointer dereference, address: 00000000000000ab
[  100.000002] #PF: supervisor read access in kernel mode
[  100.000003] Oops: 0000 [#1] PREEMPT SMP PTI
[  100.000004] CPU: 3 PID: 1234 Comm: cat Not tainted 6.1.0-18-amd64 #1
[  100.000005] RIP: 0010:bad_read+0x12/0x30 [buggy]
[  100.000006] Call Trace:
[  100.000007]  <TASK>
[  100.000008]  ? __die_body.cold+0x1a/0x1f
[  100.000009]  vfs_read+0xa5/0x310
[  100.000010]  ksys_read+0x6b/0xf0
[  100.000011]  do_syscall_64+0x55/0xb0
[  100.000012] Kernel panic - not syncing: Fatal exception
[  100.000013] ---[ end Kernel panic - not syncing: Fatal exception ]---
)";

}  // namespace

TEST_CASE("the panic's line is the one that people look for, less its time stamp") {
  CHECK(find_panic("<4>[   12.345678] Kernel panic - not syncing: sysrq triggered crash\n").line ==
        "Kernel panic - not syncing: sysrq triggered crash");
  CHECK(find_panic("[    1.0][ T123] BUG: soft lockup\n").line == "BUG: soft lockup");
  CHECK(find_panic("all is well\n").line.empty());
  CHECK(find_panic("").signature.empty());
}

TEST_CASE("a signature has the cause, where it was, and the top of the trace") {
  CHECK(find_panic(oops).signature ==
        "BUG: kernel NULL pointer dereference, address: # at bad_read < vfs_read < ksys_read < "
        "do_syscall_64");
}

TEST_CASE("the same bug on another machine has the same signature") {
  std::string other = oops;
  const auto change = [&](std::string_view from, std::string_view to) {
    for (std::size_t at; (at = other.find(from)) != std::string::npos;)
      other.replace(at, from.size(), to);
  };
  change("[  100.0", "[77777.9");
  change("00000000000000ab", "0000000000000cd0");
  change("PID: 1234", "PID: 99");
  change("vfs_read+0xa5/0x310", "vfs_read+0xb7/0x333");
  CHECK(other != oops);
  CHECK(find_panic(other).signature == find_panic(oops).signature);
}

TEST_CASE("FreeBSD's panic and trace are read") {
  const PanicText found = find_panic(
      "Fatal trap 12: page fault while in kernel mode\n"
      "cpuid = 3; apic id = 06\n"
      "panic: page fault\n"
      "KDB: stack backtrace:\n"
      "db_trace_self_wrapper() at db_trace_self_wrapper+0x2b/frame 0xfffffe00\n"
      "vpanic() at vpanic+0x182/frame 0xfffffe00\n"
      "panic() at panic+0x43/frame 0xfffffe00\n"
      "trap_fatal() at trap_fatal+0x40c/frame 0xfffffe00\n");
  CHECK(found.line == "panic: page fault");
  CHECK(found.signature == "Fatal trap #: page fault while in kernel mode < trap_fatal");
}

TEST_CASE("numbers go, words stay") {
  CHECK(normalised("cpu 12 at 0xffff8880 in deadbeef01") == "cpu # at # in #");
  CHECK(normalised("add dead feed") == "add dead feed");
  CHECK(normalised("ext4_iget5") == "ext4_iget5");
}

TEST_CASE("hostile logs end") {
  find_panic(std::string(1 << 20, '['));
  find_panic(std::string(100000, '\n'));
  const PanicText found = find_panic("panic: " + std::string(1 << 16, 'x') + "\n");
  CHECK(found.line.size() <= 512);
}
