"""Mirrors over local legs: both legs get what was written, one that fails or hangs is left behind
and copied again, legs come and go while clients write, and a killed server loses nothing."""

import json
import os
import random
import signal
import subprocess
import threading
import time

import harness
from harness import MIB, SECTOR, pattern, sectors

SIZE = 16 * MIB
REGION = 128  # sectors: 64 KiB
FAST = "clean_delay_ms 100 fence_delay_ms 50"


class MirrorCase(harness.Case):
    def setUp(self):
        super().setUp()
        self.a = self.make_file("a.img", SIZE)
        self.b = self.make_file("b.img", SIZE)
        self.log = self.make_file("log.img", MIB)
        self.server = None

    def line(self, legs=None, features=FAST, log=None):
        words = features.split()
        legs = legs or [self.a, self.b]
        return (f"0 {sectors(SIZE)} mirror disk 2 {log or self.log} {REGION} {len(legs)} "
                + " ".join(f"{leg} 0" for leg in legs) + f" {len(words)} {' '.join(words)}")

    def start_mirror(self, line=None, ready=True):
        self.server = self.serve(f"device=m:{line or self.line()}", control=True, ready=ready)
        return self.server

    def blockloom(self, *words, code=0, seconds=harness.PATIENCE):
        done = subprocess.run([harness.BLOCKLOOM, "--socket", self.server.control, *words],
                              cwd=self.folder, capture_output=True, text=True, timeout=seconds,
                              stdin=subprocess.DEVNULL, check=False)
        self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def details(self):
        return self.server.rpc("mirror_status", {"device": "m"})["mirrors"][0]["details"]

    def status(self):
        return self.server.rpc("status", {"device": "m"})["devices"][0]["lines"][0]

    def wait_in_sync(self, seconds=harness.PATIENCE):
        self.blockloom("wait", "m", "--in-sync", "--timeout", f"{seconds}s",
                       seconds=seconds + 10)

    def tell_leg(self, number, *words):
        return self.server.rpc("message", {"device": "m", "words": ["leg", str(number), *words]})

    def assert_legs_equal(self, *paths):
        paths = paths or (self.a, self.b)
        first = self.read_file(paths[0])
        for path in paths[1:]:
            other = self.read_file(path)
            if first != other:
                differ = [i for i in range(0, SIZE, 4096)
                          if first[i:i + 4096] != other[i:i + 4096]]
                self.fail(f"{paths[0]} and {path} differ in {len(differ)} blocks, first at "
                          f"{differ[0]}")


class Writer(threading.Thread):
    """Writes blocks that carry their own history, one after another, and remembers what was
    acknowledged; in the end what is read is the last acknowledged or a later one."""

    BLOCK = 4096

    def __init__(self, case, seed=1):
        super().__init__(daemon=True)
        self.client = case.connect(case.server, "m")
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.acked = {}
        self.tried = {}
        self.errors = []
        self.worst = 0.0
        self.count = 0

    def content(self, block, version):
        return (f"{block}:{version};".encode() * self.BLOCK)[:self.BLOCK]

    def run(self):
        while not self.stopping.is_set():
            block = self.random.randrange(SIZE // self.BLOCK)
            version = self.tried.get(block, 0) + 1
            self.tried[block] = version
            start = time.monotonic()
            try:
                self.client.pwrite(self.content(block, version), block * self.BLOCK)
            except harness.nbd.Error as error:
                self.errors.append(str(error))
                return
            self.worst = max(self.worst, time.monotonic() - start)
            self.acked[block] = version
            self.count += 1

    def stop(self):
        self.stopping.set()
        self.join(harness.PATIENCE)
        assert not self.is_alive(), "a write was never answered"

    def check(self, read):
        """read(offset, length) gives what is there now."""
        for block, tried in self.tried.items():
            found = read(block * self.BLOCK, self.BLOCK)
            least = self.acked.get(block, 0)
            allowed = [self.content(block, v) for v in range(max(least, 1), tried + 1)]
            if least == 0:
                allowed.append(bytes(self.BLOCK))
            assert bytes(found) in allowed, (
                f"block {block}: acknowledged version {least}, found {bytes(found[:24])!r}")


class Basics(MirrorCase):
    def test_both_legs_hold_what_was_written(self):
        self.start_mirror()
        client = self.connect(self.server, "m")
        client.pwrite(pattern(3 * MIB, 1), MIB - SECTOR)
        client.zero(MIB, 8 * MIB)
        client.trim(MIB, 2 * MIB)
        client.flush()
        self.assertEqual(client.pread(MIB, MIB - SECTOR), pattern(3 * MIB, 1)[:MIB])
        self.wait_in_sync()
        self.assert_legs_equal()
        self.assertRegex(self.status(), r"^0 32768 mirror 2 \S+ \S+ 256/256 1 AA 3 disk \S+ A$")
        self.assertEqual([leg["way"] for leg in self.details()["legs"]], ["inline", "inline"])

    def test_its_table_can_be_loaded_again(self):
        self.start_mirror()
        table = self.server.rpc("table", {"device": "m"})["devices"][0]["lines"][0]
        self.assertEqual(table, self.line())
        self.server.rpc("load", {"device": "m", "table": table})
        self.server.rpc("resume", {"device": "m"})

    def test_an_orderly_restart_copies_nothing(self):
        self.start_mirror()
        self.wait_in_sync()
        self.connect(self.server, "m").pwrite(pattern(MIB, 2), 0)
        self.assertEqual(self.server.terminate(), 0)
        self.start_mirror()
        details = self.details()
        self.assertEqual((details["in_sync"], details["dirty_regions"]), (True, 0))
        self.assert_legs_equal()

    def test_a_core_log_copies_everything_at_each_start(self):
        for words, in_sync in (("2 {} nosync", True), ("1 {}", False)):
            line = (f"0 {sectors(SIZE)} mirror core {words.format(REGION)} 2 {self.a} 0 {self.b} 0 "
                    "2 resync_rate 512K")
            self.start_mirror(line)
            self.assertEqual(self.details()["in_sync"], in_sync)
            self.server.stop()

    def test_a_resync_is_paused_and_goes_on(self):
        self.start_mirror(self.line(features="resync_rate 1M"))
        self.blockloom("message", "m", "0", "pause")
        self.assertTrue(self.details()["resync"]["paused"])
        self.blockloom("message", "m", "0", "rate", "0")
        self.blockloom("message", "m", "0", "resume")
        self.wait_in_sync()

    def test_a_scrub_finds_and_repairs(self):
        self.start_mirror()
        self.wait_in_sync()
        with open(self.b, "r+b") as file:
            file.seek(5 * MIB)
            file.write(b"rot")
        for word, equal in (("check", False), ("repair", True)):
            self.blockloom("message", "m", "0", word)
            harness.wait_until(lambda: not self.details()["scrub"]["running"], "the scrub's end")
            self.assertEqual(self.details()["scrub"]["mismatches"], 1)
            mismatch = self.details()["scrub"]["list"][0]
            self.assertLessEqual(mismatch["offset"], 5 * MIB)
            self.assertGreater(mismatch["offset"] + mismatch["length"], 5 * MIB)
            if equal:
                self.wait_in_sync()
                self.assert_legs_equal()

    def test_mirror_status_reads_well(self):
        self.start_mirror()
        self.wait_in_sync()
        text = self.blockloom("mirror-status", "m")
        self.assertIn("m at sector 0: serving, 256 of 256 regions in sync", text)
        self.assertIn(f"0  A  up            {self.a}", text)
        answer = json.loads(self.blockloom("--json", "mirror-status", "m"))
        self.assertEqual(answer["mirrors"][0]["details"]["legs"][1]["uri"], self.b)


class Failures(MirrorCase):
    def faulty(self, features):
        self.start_mirror(self.line([self.a, f"fault:[]:{self.b}"], f"{features} {FAST}"))
        self.wait_in_sync()

    def test_a_leg_that_fails_is_copied_again_when_it_works(self):
        self.faulty("handle_errors")
        writer = Writer(self)
        writer.start()
        self.tell_leg(1, "rules", "any=error")
        harness.wait_until(lambda: "AD" in self.status(), "the leg is down")
        self.tell_leg(1, "clear")
        self.wait_in_sync()
        writer.stop()
        self.assertEqual(writer.errors, [])
        writer.check(lambda offset, n: self.connect_once().pread(n, offset))
        self.connect_once().flush()
        self.wait_in_sync()
        self.assert_legs_equal()

    def connect_once(self):
        if not hasattr(self, "client"):
            self.client = self.connect(self.server, "m")
        return self.client

    def test_a_leg_that_hangs_costs_its_timeout_once(self):
        self.faulty("timeout_ms 300")
        writer = Writer(self)
        writer.start()
        harness.wait_until(lambda: writer.count > 50, "writes")
        self.tell_leg(1, "rules", "write=hang")
        harness.wait_until(lambda: "AD" in self.status(), "the leg is down")
        before = writer.count
        harness.wait_until(lambda: writer.count > before + 200, "writes go on")
        self.assertGreaterEqual(self.details()["legs"][1]["timeouts"], 1)
        # The late writes land when it goes on, over newer data: they must not survive.
        self.tell_leg(1, "clear")
        self.wait_in_sync()
        writer.stop()
        self.assertEqual(writer.errors, [])
        self.assertLess(writer.worst, 5)
        writer.check(lambda offset, n: self.connect_once().pread(n, offset))
        self.wait_in_sync()
        self.assert_legs_equal()

    def test_a_hung_read_is_asked_of_the_other_leg(self):
        self.faulty("timeout_ms 5000 hedge_ms 20 read_policy preferred preferred 1")
        client = self.connect(self.server, "m")
        client.pwrite(pattern(SECTOR, 3), 0)
        self.tell_leg(1, "rules", "read=hang")
        start = time.monotonic()
        self.assertEqual(client.pread(SECTOR, 0), pattern(SECTOR, 3))
        self.assertLess(time.monotonic() - start, 4)
        self.assertEqual(self.details()["hedged_reads"], 1)
        self.tell_leg(1, "clear")

    def test_without_a_leg_requests_fail(self):
        self.start_mirror(self.line([f"fault:[]:{self.a}", f"fault:[]:{self.b}"]))
        self.wait_in_sync()
        client = self.connect(self.server, "m")
        for leg in (0, 1):
            self.tell_leg(leg, "rules", "any=error")
        with self.assertRaises(harness.nbd.Error):
            client.pwrite(pattern(SECTOR, 4), 0)
        for leg in (0, 1):
            self.tell_leg(leg, "clear")
        self.wait_in_sync()
        client.pwrite(pattern(SECTOR, 4), 0)
        self.assertEqual(client.pread(SECTOR, 0), pattern(SECTOR, 4))

    def test_a_leg_failed_by_hand_stays_out_until_it_is_taken_back(self):
        self.start_mirror()
        self.wait_in_sync()
        self.blockloom("leg", "fail", "m", "1")
        self.connect(self.server, "m").pwrite(pattern(MIB, 5), 0)
        harness.wait_until(lambda: self.details()["legs"][1]["state"] == "down_fenced", "it is out")
        self.assertIn("is the last one", self.blockloom("leg", "fail", "m", "0", code=4))
        self.blockloom("leg", "readd", "m", self.b)
        self.wait_in_sync()
        self.assert_legs_equal()


class Changes(MirrorCase):
    """Legs come and go while a client writes."""

    def setUp(self):
        super().setUp()
        self.c = self.make_file("c.img", SIZE)
        self.start_mirror()
        self.wait_in_sync()
        self.writer = Writer(self)
        self.writer.start()

    def finish(self, *legs):
        self.wait_in_sync()
        self.writer.stop()
        self.assertEqual(self.writer.errors, [])
        client = self.connect(self.server, "m")
        self.writer.check(lambda offset, n: client.pread(n, offset))
        client.flush()
        self.wait_in_sync()
        self.assert_legs_equal(*legs)
        self.assertEqual([leg["uri"] for leg in self.details()["legs"]], list(legs))

    def test_a_leg_is_added(self):
        self.blockloom("leg", "add", "m", self.c)
        self.finish(self.a, self.b, self.c)

    def test_a_leg_is_removed(self):
        self.blockloom("leg", "remove", "m", "0")
        self.finish(self.b)

    def test_a_leg_is_replaced(self):
        self.blockloom("leg", "replace", "m", "0", self.c)
        self.finish(self.c, self.b)

    def test_a_leg_is_migrated(self):
        out = self.blockloom("migrate", "m", "--from", self.a, "--to", self.c, "--timeout", "60s")
        self.assertIn("is in sync and serves", out)
        self.finish(self.b, self.c)

    def test_what_cannot_be_is_refused_and_the_old_table_serves(self):
        small = self.make_file("small.img", MIB)
        for words, says in ((("add", "m", small), "too small"),
                            (("add", "m", self.a), "given twice"),
                            (("add", "m", "/nowhere/at/all"), "No such file"),
                            (("add", "m", "dev:m"), "stand on itself"),
                            (("remove", "m", "7"), "leg")):
            done = subprocess.run(
                [harness.BLOCKLOOM, "--socket", self.server.control, "leg", *words],
                capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
            self.assertNotEqual(done.returncode, 0, words)
            self.assertIn(says, done.stderr)
        self.finish(self.a, self.b)

    def test_a_restart_goes_on_with_the_new_legs(self):
        self.blockloom("leg", "add", "m", self.c)
        self.wait_in_sync()
        self.writer.stop()
        self.assertEqual(self.server.terminate(), 0)
        self.start_mirror(self.line([self.a, self.b, self.c]))
        self.assertTrue(self.details()["in_sync"])
        self.assert_legs_equal(self.a, self.b, self.c)


class Restarts(MirrorCase):
    def kill_while_writing(self, seed):
        writer = Writer(self, seed)
        writer.start()
        harness.wait_until(lambda: writer.count > 20 + seed % 50, "writes")
        self.server.signal(signal.SIGKILL)
        self.server.process.wait()
        writer.stop()
        return writer

    def test_a_killed_server_loses_nothing_acknowledged(self):
        self.start_mirror()
        self.wait_in_sync()
        writers = []
        for seed in range(int(os.environ.get("MIRROR_KILLS", "5"))):
            writers.append(self.kill_while_writing(seed))
            for leg in (self.a, self.b):
                self.assertEqual(os.path.getsize(leg), SIZE)
            self.start_mirror()
            details = self.details()
            # The page cache is the kernel's: what was acknowledged outlives the process.
            client = self.connect(self.server, "m")
            newest = writers[-1]
            newest.check(lambda offset, n: client.pread(n, offset))
            self.wait_in_sync()
            self.assertLess(details["regions"] - details["in_sync_regions"], details["regions"])
            self.assert_legs_equal()

    def test_without_a_leg_it_starts_when_the_record_allows_that(self):
        self.start_mirror()
        self.wait_in_sync()
        self.connect(self.server, "m").pwrite(pattern(MIB, 6), 0)
        self.server.terminate()
        os.rename(self.b, self.b + ".away")
        self.start_mirror()
        self.assertIn("AD", self.status())
        client = self.connect(self.server, "m")
        self.assertEqual(client.pread(MIB, 0), pattern(MIB, 6))
        client.pwrite(pattern(MIB, 7), MIB)
        # It comes back, and is copied by itself.
        os.rename(self.b + ".away", self.b)
        self.wait_in_sync(90)
        self.assert_legs_equal()

    def test_without_the_only_leg_that_holds_the_newest_data_it_does_not_start(self):
        self.start_mirror()
        self.wait_in_sync()
        self.blockloom("leg", "fail", "m", "1")
        self.connect(self.server, "m").pwrite(pattern(MIB, 8), 0)
        self.server.terminate()
        os.rename(self.a, self.a + ".away")
        said = self.refuse(f"table={self.line()}")
        self.assertIn("is missing", said)
        self.assertIn(self.a, said)
        self.assertIn("force", said)
        forced = self.line(features=f"force {FAST}")
        self.start_mirror(forced)
        self.connect(self.server, "m").pread(MIB, 0)


class BadRecords(MirrorCase):
    def made(self):
        self.start_mirror()
        self.wait_in_sync()
        self.connect(self.server, "m").pwrite(pattern(MIB, 9), 0)
        self.server.terminate()

    def test_a_flipped_bit_is_healed_or_refused_never_trusted(self):
        self.made()
        record = self.read_file(self.log)
        used = max(i for i, byte in enumerate(record) if byte) + 1
        rng = random.Random(1)
        for _ in range(12):
            bit = rng.randrange(used * 8)
            damaged = bytearray(record)
            damaged[bit // 8] ^= 1 << bit % 8
            with open(self.log, "r+b") as file:
                file.write(damaged)
            self.start_mirror()
            self.assertEqual(self.connect(self.server, "m").pread(MIB, 0), pattern(MIB, 9))
            self.wait_in_sync()
            self.server.terminate()
            with open(self.log, "r+b") as file:
                file.write(record)

    def test_a_record_that_is_damaged_in_all_copies_is_refused(self):
        self.made()
        with open(self.log, "r+b") as file:
            for copy in range(4):
                file.seek(copy * 4096 + 100)
                file.write(b"\xff" * 8)
        self.assertIn("damaged", self.refuse(f"table={self.line()}"))

    def test_another_mirrors_log_is_refused(self):
        self.made()
        other = [self.make_file(n, SIZE) for n in ("x.img", "y.img")]
        self.assertIn("belongs to a mirror with other legs",
                      self.refuse(f"table={self.line(other)}"))

    def test_legs_that_do_not_fit_are_refused(self):
        small = self.make_file("small.img", SIZE // 2)
        self.assertIn("too small", self.refuse(f"table={self.line([self.a, small])}"))
        self.assertIn("given twice", self.refuse(f"table={self.line([self.a, self.a])}"))


if __name__ == "__main__":
    harness.unittest.main()
