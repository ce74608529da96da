"""Proves the harness itself, with no part of Blockloom: what it reports can be believed."""

import hashlib
import subprocess

import setting  # first: it makes the functional tests' harness importable

import harness
import images
from machine import GuestError, Machine, ScriptError


class Harness(harness.Case):
    @classmethod
    def setUpClass(cls):
        cls.image = images.prepare(setting.build)

    def boot(self, **options) -> Machine:
        machine = Machine(self.image, setting.scratch / self._testMethodName, **options)
        self.addCleanup(machine.kill)
        return machine

    def test_exit_code_comes_through(self):
        self.assertEqual(self.boot(job="exit 7").wait(), 7)

    def test_a_guest_that_dies_is_a_failure(self):
        with self.assertRaisesRegex(GuestError, "no GUEST-EXIT line"):
            self.boot(job="echo it dies here; poweroff -f").wait()

    def test_a_missing_program_is_a_failure(self):
        with self.assertRaisesRegex(GuestError, "nosuchprogram: not found"):
            self.boot(job="nosuchprogram; exit 0").wait()

    def test_a_guest_that_hangs_is_killed(self):
        machine = self.boot(job="sleep 1000", limit_s=10)
        with self.assertRaisesRegex(GuestError, "still running after its limit of 10 s"):
            machine.wait()
        self.assertIsNotNone(machine.exit_code())

    def test_scripts_run_and_fail_by_themselves(self):
        machine = self.boot()
        machine.wait_ready()
        self.assertEqual(machine.run("echo out; echo err >&2; exit 3", check=False),
                         (3, "out\nerr\n"))
        with self.assertRaises(ScriptError):
            machine.run("false")
        with self.assertRaisesRegex(ScriptError, "not found"):
            machine.run("nosuchprogram | cat")
        self.assertEqual(machine.shell("echo", "a  b", "'"), "a  b '\n")
        machine.finish()

    def test_a_file_system_on_nbdkit_memory(self):
        """Everything that the test of Blockloom does to its device, on a server known to work."""
        seeded_io = setting.seeded_io()
        data = subprocess.run([seeded_io, "generate", "1", "3000000"], capture_output=True,
                              check=True).stdout
        server = self.start(self.folder, ["nbdkit", "memory", "64M"])
        machine = self.boot(files={"usr/bin/seeded_io": seeded_io})
        machine.wait_ready()
        machine.run(f"modprobe nbd && nbd-client 10.0.2.2 {server.port} /dev/nbd0 -C 2")
        machine.run("mkfs.ext4 -q /dev/nbd0 && mount /dev/nbd0 /mnt")
        machine.run("seeded_io generate 1 3000000 >/mnt/file && umount /mnt")
        machine.run("e2fsck -f -n /dev/nbd0 && mount /dev/nbd0 /mnt")
        sums = machine.shell("sha256sum", "/mnt/file")
        self.assertEqual(sums.split()[0], hashlib.sha256(data).hexdigest())
        machine.run("umount /mnt && nbd-client -d /dev/nbd0")
        machine.finish()
