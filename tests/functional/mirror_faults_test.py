"""Mirrors whose legs' servers are stopped, killed, full, failing or cut off while fio verifies:
no error reaches the client while one leg lives, every request is answered within its bound, and
after healing 0 blocks differ."""

import os
import random
import subprocess
import time
import unittest

import harness
from harness import MIB, sectors, wait_until
from mirror_legs import FileLeg, Iscsi, Mirror, Nbdkit, NbdServer, Own, Qemu

# A leg has half a second. That nobody waits longer is seen without a clock, for the machine may be
# busy: what is hurt stays hurt until more was written and answered.
FEATURES = "timeout_ms 500 fence_delay_ms 200 clean_delay_ms 200"


class Faults(harness.Case):
    """Each kind of server: frozen, and killed."""

    def mirror(self, *kinds, features=FEATURES):
        return Mirror(self, [FileLeg(self, 16 * MIB), *(kind(self, 16 * MIB) for kind in kinds)],
                      features)

    def under_fio(self, mirror, hurt):
        """Runs fio, hurts a leg on the way, and checks what the client saw."""
        with mirror.fio() as fio:
            fio.goes_on()
            hurt(fio)
            fio.goes_on()
            fio.check()

    def settle(self, mirror, seconds=harness.PATIENCE):
        mirror.wait_whole(seconds)
        client = self.connect(mirror.server, "m")
        client.flush()
        self.hang_up(client)
        mirror.check_equal()

    def check_freeze(self, kind):
        mirror = self.mirror(kind)
        leg = mirror.legs[1]

        def freeze(fio):
            leg.freeze()
            mirror.wait_health(lambda health: health != "AA")
            fio.goes_on()
            leg.thaw()
        self.under_fio(mirror, freeze)
        self.settle(mirror)

    def test_nbdkit_is_frozen(self):
        self.check_freeze(Nbdkit)

    def test_qemu_nbd_is_frozen(self):
        self.check_freeze(Qemu)

    def test_nbd_server_is_frozen(self):
        self.check_freeze(NbdServer)

    def test_tgtd_is_frozen(self):
        self.check_freeze(Iscsi)

    def test_our_own_server_is_frozen(self):
        self.check_freeze(Own)

    def check_kill(self, kind):
        mirror = self.mirror(kind)
        leg = mirror.legs[1]

        def kill(fio):
            leg.kill()
            mirror.wait_health(lambda health: health != "AA")
            fio.goes_on()
            leg.start()
        self.under_fio(mirror, kill)
        if leg.proves_after_kill:
            return self.settle(mirror)
        # Its link died with writes unanswered, and nothing tells what became of them: it stays out,
        # and says why, unless all had been answered.
        def decided():
            return mirror.details()["legs"][1]["state"] in ("up", "down_unfenced")
        wait_until(decided, "its fence ends")
        details = mirror.details()["legs"][1]
        if details["state"] == "up":
            return self.settle(mirror)
        return self.assertTrue(details.get("reason"), details)

    def test_nbdkit_is_killed(self):
        self.check_kill(Nbdkit)

    def test_qemu_nbd_is_killed(self):
        self.check_kill(Qemu)

    def test_nbd_server_is_killed(self):
        self.check_kill(NbdServer)

    def test_tgtd_is_killed(self):
        self.check_kill(Iscsi)

    def test_our_own_server_is_killed(self):
        self.check_kill(Own)

    def test_a_mirror_of_three_kinds_loses_two_of_them(self):
        mirror = self.mirror(Own, Iscsi)

        def hurt(fio):
            mirror.legs[1].kill()
            mirror.wait_health(lambda health: health[1] != "A")
            mirror.legs[2].freeze()
            mirror.wait_health(lambda health: health[2] != "A")
            fio.goes_on()
            mirror.legs[1].start()
            mirror.legs[2].thaw()
        self.under_fio(mirror, hurt)
        self.settle(mirror)

    def test_an_error_filter_fails_some_writes(self):
        mirror = Mirror(self, [FileLeg(self, 16 * MIB), Nbdkit(self, 16 * MIB, "EIO", "20%")],
                        FEATURES)
        leg = mirror.legs[1]

        def fail(fio):
            leg.fail()
            mirror.wait_health(lambda health: health != "AA")
            fio.goes_on()
            leg.heal()
        self.under_fio(mirror, fail)
        self.settle(mirror)

    def test_a_full_disk(self):
        """A leg's server whose file system has 8 MiB for 16."""
        leg = FullDisk(self, 16 * MIB)
        mirror = Mirror(self, [FileLeg(self, 16 * MIB), leg], FEATURES)

        def fill(fio):
            mirror.wait_health(lambda health: health != "AA")
            fio.goes_on()
            leg.grow()
        self.under_fio(mirror, fill)
        mirror.wait_whole()
        client = self.connect(mirror.server, "m")
        client.flush()
        self.hang_up(client)
        self.assertEqual(leg.content(), mirror.legs[0].content(), "blocks differ")

    def test_a_cut_connection(self):
        """A server in a network namespace, whose link is taken down and up again."""
        leg = FarAway(self, 16 * MIB)
        mirror = Mirror(self, [FileLeg(self, 16 * MIB), leg], FEATURES)

        def cut(fio):
            leg.link("down")
            mirror.wait_health(lambda health: health != "AA")
            fio.goes_on()
            leg.link("up")
        self.under_fio(mirror, cut)
        self.settle(mirror)


class FullDisk(Nbdkit):
    """nbdkit in a mount namespace with a tmpfs that is too small."""

    def command(self):
        folder = self.case.path(f"small{self.number}")
        os.makedirs(folder, exist_ok=True)
        self.inner = os.path.join(folder, "disk.img")
        script = (f"mount -t tmpfs -o size=8m small {folder} && truncate -s {self.size} {self.inner}"
                  f" && exec nbdkit -f -i 127.0.0.1 -p {self.port} file {self.inner}")
        return ["unshare", "-m", "/bin/sh", "-c", script]

    def grow(self):
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-m", "mount", "-o",
                        "remount,size=64m", os.path.dirname(self.inner)], check=True, timeout=30)

    def content(self):
        with open(f"/proc/{self.process.pid}/root{self.inner}", "rb") as file:
            return file.read(self.size)


class FarAway(Own):
    """Our own server at the other end of a pair of virtual interfaces."""

    def __init__(self, case, size):
        self.tag = f"bl{os.getpid() % 10000}"
        self.run(f"ip netns add {self.tag}")
        case.addCleanup(self.remove)
        net = os.getpid() % 250
        self.address = f"10.213.{net}.2"
        for line in (f"ip link add {self.tag}a type veth peer name {self.tag}b netns {self.tag}",
                     f"ip addr add 10.213.{net}.1/30 dev {self.tag}a",
                     f"ip link set {self.tag}a up",
                     f"ip netns exec {self.tag} ip addr add {self.address}/30 dev {self.tag}b",
                     f"ip netns exec {self.tag} ip link set {self.tag}b up"):
            self.run(line)
        super().__init__(case, size)

    @staticmethod
    def run(line):
        subprocess.run(line.split(), check=True, timeout=30, capture_output=True)

    def remove(self):
        subprocess.run(["ip", "link", "del", f"{self.tag}a"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.tag], check=False, capture_output=True)

    def command(self):
        words = super().command()
        words[words.index("127.0.0.1")] = self.address
        return ["ip", "netns", "exec", self.tag, *words]

    def uri(self):
        return f"nbd://{self.address}:{self.port}/disk"

    def link(self, state):
        self.run(f"ip link set {self.tag}a {state}")


class LateWrites(harness.Case):
    """A leg's server is stopped with writes in flight, newer data are written, it goes on: the old
    writes must not survive; where nothing proves that, the leg stays out and says why."""

    def check_late(self, kind):
        mirror = Mirror(self, [FileLeg(self, 16 * MIB), kind(self, 16 * MIB)], FEATURES)
        leg = mirror.legs[1]
        client = self.connect(mirror.server, "m")
        client.pwrite(b"0" * MIB, 0)
        client.flush()
        leg.freeze()
        deadline = time.monotonic() + harness.PATIENCE
        cookies = []
        for at in range(0, MIB, 65536):
            cookies.append(client.aio_pwrite(harness.nbd.Buffer.from_bytearray(
                bytearray(b"1" * 65536)), at))
        while cookies:
            client.poll(1000)
            cookies = [c for c in cookies if not client.aio_command_completed(c)]
            self.assertLess(time.monotonic(), deadline, "not answered while the leg is frozen")
        client.pwrite(b"2" * MIB, 0)
        client.flush()
        leg.thaw()
        mirror.wait_whole()
        time.sleep(1)
        self.assertEqual(client.pread(MIB, 0), b"2" * MIB)
        client.flush()
        mirror.check_equal()
        self.assertEqual(leg.content()[:MIB], b"2" * MIB)

    def test_nbdkit_by_drain(self):
        self.check_late(Nbdkit)

    def test_qemu_nbd_by_drain(self):
        self.check_late(Qemu)

    def test_nbd_server_by_drain(self):
        self.check_late(NbdServer)

    def test_tgtd_by_reset(self):
        self.check_late(Iscsi)

    def test_our_own_server_by_epoch(self):
        self.check_late(Own)

    def test_without_a_proof_the_leg_stays_out_and_says_why(self):
        mirror = Mirror(self, [FileLeg(self, 16 * MIB), Nbdkit(self, 16 * MIB)], FEATURES)
        leg = mirror.legs[1]
        client = self.connect(mirror.server, "m")
        client.pwrite(b"0" * MIB, 0)
        leg.freeze()
        client.pwrite(b"1" * MIB, 0)  # unanswered there
        leg.kill()
        leg.start()
        wait_until(lambda: mirror.details()["legs"][1]["state"] == "down_unfenced",
                   "it has no proof")
        client.pwrite(b"2" * MIB, 0)
        time.sleep(2)
        details = mirror.details()["legs"][1]
        self.assertEqual(details["state"], "down_unfenced")
        self.assertTrue(details.get("reason"), details)
        self.assertEqual(mirror.health(), "AD")
        self.assertEqual(client.pread(MIB, 0), b"2" * MIB)
        # Its server was started anew, and a person says so.
        mirror.server.rpc("leg_vouch", {"device": "m", "leg": "1"})
        mirror.wait_whole()
        client.flush()
        mirror.check_equal()


class Crashes(harness.Case):
    """kill -9 of the server itself during writes, with different seeds."""

    BLOCK, BLOCKS = 4096, 1024

    def crash(self, mirror, expected, seed):
        """Writes and flushes until the server dies; then nothing that was flushed is lost."""
        rng = random.Random(seed)
        client = self.connect(mirror.server, "m")
        since = {}  # block: what was written since the last good flush
        deadline = time.monotonic() + rng.uniform(0.05, 0.6)
        killed = False
        stamp = seed << 20
        touched = set()
        try:
            while True:
                if time.monotonic() > deadline and not killed:
                    mirror.server.process.kill()
                    killed = True
                for _ in range(rng.randrange(1, 8)):
                    block, stamp = rng.randrange(self.BLOCKS), stamp + 1
                    since.setdefault(block, []).append(stamp)
                    touched.add(block)
                    client.pwrite(stamp.to_bytes(8, "little") * (self.BLOCK // 8),
                                  block * self.BLOCK)
                client.flush()
                for block, stamps in since.items():
                    expected[block] = stamps[-1]
                since.clear()
        except harness.nbd.Error:
            self.assertTrue(killed, "the client met an error before the server was killed")
        mirror.server.process.wait()
        mirror.start()
        client = self.connect(mirror.server, "m")
        for block in range(self.BLOCKS):
            data = client.pread(self.BLOCK, block * self.BLOCK)
            stamp = int.from_bytes(data[:8], "little")
            self.assertEqual(data, data[:8] * (self.BLOCK // 8), f"block {block} is torn")
            self.assertIn(stamp, [expected.get(block, 0), *since.get(block, [])],
                          f"seed {seed}: block {block} lost what was flushed")
            expected[block] = stamp
        self.hang_up(client)
        return touched

    def check_crashes(self, legs, seeds, features=FEATURES):
        mirror = Mirror(self, legs, features, size=16 * MIB)
        expected = {}
        for seed in seeds:
            touched = self.crash(mirror, expected, seed)
            mirror.wait_whole()
            client = self.connect(mirror.server, "m")
            client.flush()
            self.hang_up(client)
            mirror.check_equal()
            regions = {block * self.BLOCK // (mirror.REGION * 512) for block in touched}
            copied = self.copied(mirror)
            self.assertLessEqual(copied, (len(regions) + 2) * mirror.REGION * 512,
                                 "more than the dirty regions was copied")
            # What is still dirty at the next kill would rightly be copied then.
            harness.wait_until(lambda: mirror.details()["dirty_regions"] == 0, "clean regions")

    @staticmethod
    def copied(mirror):
        return mirror.details()["resync"]["bytes_done"]

    def test_fifty_kills_over_local_legs(self):
        self.check_crashes([FileLeg(self, 16 * MIB), FileLeg(self, 16 * MIB)], range(1, 51))

    def test_kills_over_an_nbd_and_an_iscsi_leg(self):
        self.check_crashes([Own(self, 16 * MIB), Iscsi(self, 16 * MIB)], range(101, 109))


class BadInput(harness.Case):
    """Tables and logs that no mirror can have."""

    def refused(self, words, size=4 * MIB):
        return self.refuse(f"table=0 {sectors(size)} mirror {words}")

    def setUp(self):
        super().setUp()
        self.a, self.b = (self.make_file(name, 4 * MIB) for name in ("a.img", "b.img"))
        self.log = self.make_file("log", MIB)

    def line(self, legs=None, log=None, features=""):
        legs = legs or (self.a, self.b)
        return (f"disk 3 {log or self.log} 128 nosync {len(legs)} "
                + " ".join(f"{leg} 0" for leg in legs) + features)

    def test_legs_of_different_sizes(self):
        small = self.make_file("small.img", MIB)
        self.assertIn("is too small", self.refused(self.line((self.a, small))))

    def test_a_leg_twice(self):
        self.assertRegex(self.refused(self.line((self.a, self.a))), "twice")

    def test_the_log_as_a_leg(self):
        log = self.make_file("both.img", 4 * MIB)
        self.assertRegex(self.refused(self.line((self.a, log), log)), "log")

    def test_itself(self):
        server = self.serve(f"device=m:0 {sectors(4 * MIB)} linear {self.a} 0", control=True)
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("load", {"device": "m", "table":
                                f"0 {sectors(4 * MIB)} mirror {self.line(('dev:m', self.b))}"})
        self.assertIn("would stand on itself", str(caught.exception))

    def test_wrong_features(self):
        for features in (" 1 colour", " 2 timeout_ms soon", " 2 min_acks 3", " 9 handle_errors",
                         " 2 read_policy best"):
            self.assertIn("mirror: ", self.refused(self.line(features=features)), features)

    def make_log(self):
        server = self.serve(f"table=0 {sectors(4 * MIB)} mirror {self.line()}")
        client = self.connect(server)
        client.pwrite(b"x" * 65536, 65536)
        client.flush()
        self.hang_up(client)
        self.assertEqual(server.terminate(), 0)

    def test_the_log_of_another_mirror(self):
        self.make_log()
        c, d = (self.make_file(name, 4 * MIB) for name in ("c.img", "d.img"))
        self.assertIn("belongs to a mirror with other legs", self.refused(self.line((c, d))))

    def test_a_file_that_is_no_log_is_not_overwritten(self):
        with open(self.log, "r+b") as file:
            file.write(harness.pattern(MIB, 1))
        self.assertIn("something else than a mirror's log", self.refused(self.line()))
        self.assertEqual(self.read_file(self.log), harness.pattern(MIB, 1))

    def test_bits_of_the_log_that_flip_are_healed_or_refused_never_trusted(self):
        self.make_log()
        good = self.read_file(self.log)
        used = max(i for i, byte in enumerate(good) if byte) + 1
        rng = random.Random(7)
        for _ in range(24):
            bad = bytearray(good)
            at = rng.randrange(used)
            bad[at] ^= 1 << rng.randrange(8)
            with open(self.log, "r+b") as file:
                file.write(bad)
            server = self.serve(f"table=0 {sectors(4 * MIB)} mirror {self.line()}")
            client = self.connect(server)
            self.assertEqual(client.pread(65536, 65536), b"x" * 65536, f"bit in byte {at}")
            self.hang_up(client)
            server.stop()

    def test_a_log_with_both_copies_damaged_is_refused(self):
        self.make_log()
        good = bytearray(self.read_file(self.log))
        for at in range(0, min(len(good), 65536), 512):
            good[at + 5] ^= 0xff
        with open(self.log, "r+b") as file:
            file.write(good)
        said = self.refused(self.line())
        self.assertRegex(said, "log")


if __name__ == "__main__":
    unittest.main()
