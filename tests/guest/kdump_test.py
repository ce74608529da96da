"""Debian's kernel panics, and its capture kernel, whose initramfs our hook made, sends the dump."""

import pathlib
import shutil

import setting  # first: it makes the functional tests' harness importable

import capture
import daemon
import dump_support
import harness
import images
import mirror_legs
from cutting_proxy import CuttingProxy
from machine import Machine

MIB = 1 << 20
HOST = "guest"
PANIC = "Kernel panic - not syncing: sysrq triggered crash"
LAST_WORDS = "the last words of this guest"
# Wherever the first kernel puts itself (KASLR), there is room for the second beside it.
CRASHKERNEL_MIB, MEMORY_MIB = 128, 480
STORE_MIB = 256  # of a device
ARRIVAL_S = 180  # after power-on

# The first kernel: netconsole, the capture kernel as kdump-config loads it, the panic.
JOB = r"""
set -e
dmesg -n 8
modprobe netconsole netconsole=+6665@10.0.2.15/eth0,{netconsole}@10.0.2.2/52:55:0a:00:02:02
kexec -s -p /boot/vmlinuz --initrd=/boot/initrd.img \
  --command-line="$(sed 's/quiet//; s/crashkernel=[^ ]*//' /proc/cmdline) {arguments}"
[ "$(cat /sys/kernel/kexec_crash_loaded)" = 1 ]
echo '{words}' >/dev/kmsg
sync
sleep 1
echo c >/proc/sysrq-trigger
"""


class KdumpTest(dump_support.Case):
    @classmethod
    def setUpClass(cls):
        cls.image = images.prepare(setting.build)
        cls.base = setting.scratch / "kdump"
        cls.base.mkdir()
        # The capture kernel's initramfs knows this port; each test says what is behind it.
        cls.proxy = CuttingProxy(0, [])
        cls.addClassCleanup(cls.proxy.close)
        cls.install = ["--to", f"10.0.2.2:{cls.proxy.port}", "--host", HOST]
        cls.capture = capture.prepare(setting.build, cls.base, *cls.install)

    def setUp(self):
        super().setUp()
        self.scratch = self.base / self._testMethodName
        self.scratch.mkdir()

    def serve_dumps(self, more=""):
        """Into a folder."""
        self.start_dumps(listen=["stream", "netconsole"], more=more)
        self.proxy.target = self.port("stream")
        self.addCleanup(lambda: shutil.copy(self.server.log_path, self.scratch / "server.log"))

    def serve_dumps_on(self, table):
        """Into a device."""
        folder = self.new_folder()
        listeners = "".join(f'{name} = ["{self.listeners[name]}:127.0.0.1:0"]\n'
                            for name in ("stream", "netconsole"))
        self.configure(folder, f'[dump]\ndevice = "crash"\n{listeners}' + daemon.device("crash", table))
        self.server = self.run_daemon(folder)
        self.info = self.server.rpc("dump_info")
        self.proxy.target = self.port("stream")
        self.addCleanup(lambda: shutil.copy(self.server.log_path, self.scratch / "server.log"))

    def panic(self):
        """Boots the guest up to its panic. The machine goes off when the dump is sent."""
        job = JOB.format(netconsole=self.port("netconsole"), arguments=self.capture.arguments,
                         words=LAST_WORDS)
        machine = Machine(self.image, self.scratch, job=job, memory_mib=MEMORY_MIB,
                          kernel_arguments=f"crashkernel={CRASHKERNEL_MIB}M",
                          files={"boot/vmlinuz": self.capture.kernel,
                                 "boot/initrd.img": self.capture.initramfs})
        self.addCleanup(machine.kill)
        return machine

    def assert_dump(self, serial):
        """Complete, opened by the tools that people use, with its texts. Returns its record."""
        self.assertIn("blockloom-dump: exit status 0", serial)
        self.assertNotIn("Mounting root file system", serial)
        dump = self.one_dump(HOST)
        self.assertEqual((dump["state"], dump["protocol"], dump["panic"]), ("complete", "stream", PANIC))
        self.assertRegex(dump["kernel"], r"^6\.1\.")
        self.assertGreater(dump["bytes"], 4 * MIB)
        line, = [line for line in self.blockloom_dump("ls").splitlines() if HOST in line]
        self.assertIn("complete", line)
        self.assertIn("sysrq triggered crash", line)
        for name in ("dmesg.txt", "netconsole.log"):
            text = self.server.rpc("dump_text", {"dump": dump["id"], "name": name})["text"]
            self.assertIn(LAST_WORDS, text)
            self.assertIn(PANIC, text)
        self.assertTrue(self.server.rpc("dump_verify", {"dump": dump["id"]})["good"])
        image = self.path("vmcore")
        self.blockloom_dump("get", dump["id"], "--output", image)
        self.assert_tools_open(image)
        return dump

    def blockloom_dump(self, *words):
        return self.command(harness.BLOCKLOOM, "--socket", self.server.control, "dump", *words).stdout

    def assert_tools_open(self, image):
        log = self.path("dmesg-of-makedumpfile")
        self.command("makedumpfile", "--dump-dmesg", image, log)
        found = pathlib.Path(log).read_text(errors="replace")
        self.assertIn(LAST_WORDS, found)
        self.assertIn(PANIC, found)
        self.assertRegex(self.command("crash", "--osrelease", image).stdout, r"^6\.1\.")
        self.command("/usr/bin/python3", "-c", READ_BY_LIBKDUMPFILE, image)

    def test_a_panic_is_sent_whole(self):
        self.serve_dumps()
        self.assert_dump(self.panic().wait_off())
        groups = self.server.rpc("dump_groups")["groups"]
        self.assertEqual(len(groups), 1)
        self.assertEqual(groups[0]["count"], 1)

    def test_the_connection_is_cut_twice_and_the_dump_goes_on(self):
        self.serve_dumps()
        self.proxy.cuts, self.proxy.cut_after = 0, [2 * MIB, 3 * MIB]
        serial = self.panic().wait_off()
        self.assertEqual(self.proxy.cuts, 2)
        self.assertIn("goes on at", serial)
        self.assert_dump(serial)

    def test_over_tls(self):
        key = self.write_text("keys.psk", "guest:00112233445566778899aabbccddeeff\n")
        self.capture = capture.prepare(setting.build, self.scratch, *self.install, "--tls-psk", "/psk",
                                       program="blockloom-dump-tls", files={"/psk": key})
        self.serve_dumps(more=f'[dump.tls]\nmode = "require"\npsk = "{key}"\n')
        self.assert_dump(self.panic().wait_off())

    def test_into_a_mirror_one_leg_of_which_stops(self):
        log = self.make_file("log", MIB)
        legs = [mirror_legs.Nbdkit(self, STORE_MIB * MIB) for _ in range(2)]
        self.serve_dumps_on(f"0 {STORE_MIB * MIB // 512} mirror disk 3 {log} 1024 nosync 2 "
                            f"{legs[0].uri()} 0 {legs[1].uri()} 0 2 timeout_ms 1000")
        machine = self.panic()
        harness.wait_until(lambda: self.dumps(HOST) and self.one_dump(HOST)["bytes"] > 2 * MIB,
                           "some of the dump is here", ARRIVAL_S)
        legs[1].freeze()
        serial = machine.wait_off()
        self.assert_dump(serial)
        status = self.command(harness.BLOCKLOOM, "--socket", self.server.control, "status", "crash").stdout
        self.assertRegex(status, r" 1 AD ", "the frozen leg was not left behind")
        legs[1].thaw()


# The kernel's version string, found by its symbol's address in VMCOREINFO: translation, page
# descriptors and decompression all have to work for that.
READ_BY_LIBKDUMPFILE = """
import sys
import kdumpfile
context = kdumpfile.kdumpfile(sys.argv[1])
context.attr["addrxlat.ostype"] = "linux"
lines = context.attr["linux.vmcoreinfo.lines"]
names = context.read(kdumpfile.KDUMP_KVADDR, int(lines["SYMBOL(init_uts_ns)"], 16), 512)
assert lines["OSRELEASE"].encode() in bytes(names), bytes(names)
"""
