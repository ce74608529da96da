"""Block devices as legs: loop devices over files, with sectors of 512 and of 4096 bytes.

The kernel does here what a disk's driver does: BLKGETSIZE64, BLKDISCARD, BLKZEROOUT, fdatasync.
"""

import os
import random
import shutil
import subprocess
import unittest

import harness
from harness import MIB, SECTOR, pattern

FUA, FAST_ZERO, NO_HOLE = (getattr(harness.nbd, f"CMD_FLAG_{name}")
                           for name in ("FUA", "FAST_ZERO", "NO_HOLE"))
SIZE = 8 * MIB


def losetup(*words):
    return subprocess.run(["losetup", *words], capture_output=True, text=True, check=False,
                          timeout=harness.PATIENCE)


def why_not():
    """What keeps loop devices away from here; empty: nothing."""
    if os.geteuid() != 0:
        return "loop devices need root"
    if not shutil.which("losetup"):
        return "losetup is missing (package mount)"
    free = losetup("--find")
    return "" if free.returncode == 0 else f"no loop device: {free.stderr.strip()}"


MISSING = why_not()


class LoopCase(harness.Case):
    block = SECTOR

    def setUp(self):
        super().setUp()
        self.content = bytearray(pattern(SIZE, 1))
        self.file = self.make_file("backing.img", SIZE, seed=1)
        self.loop = self.attach(self.file)

    def attach(self, file, *more):
        done = losetup("--find", "--show", f"--sector-size={self.block}", *more, file)
        if done.returncode != 0:
            self.skipTest(f"losetup cannot attach a file with sectors of {self.block}: "
                          f"{done.stderr.strip()}")
        loop = done.stdout.strip()
        self.addCleanup(losetup, "--detach", loop)
        return loop

    def linear(self, **how):
        return self.serve(f"table=0 {SIZE // SECTOR} linear {self.loop} 0", **how)

    def on_disk(self):
        """What the file under the loop device holds."""
        subprocess.run(["sync", self.loop], check=True, timeout=harness.PATIENCE)
        return self.read_file(self.file)

    def blocks(self):
        subprocess.run(["sync", self.file], check=True, timeout=harness.PATIENCE)
        return os.stat(self.file).st_blocks


class Common:
    """What holds whatever the sectors of the device are."""

    def test_size_reads_and_writes(self):
        client = self.connect(self.linear())
        self.assertEqual(client.get_size(), SIZE)
        self.assertEqual(client.pread(SIZE, 0), self.content)
        rng = random.Random(2)
        for seed in range(40):
            data = pattern(rng.randrange(1, 128) * SECTOR, seed)
            at = rng.randrange(0, SIZE - len(data)) // SECTOR * SECTOR
            client.pwrite(data, at)
            self.content[at:at + len(data)] = data
        self.assertEqual(client.pread(SIZE, 0), self.content)
        client.flush()
        self.assertEqual(self.on_disk(), self.content)

    def test_a_table_from_the_middle_of_it(self):
        client = self.connect(self.serve(f"table=0 2048 linear {self.loop} 4096"))
        self.assertEqual(client.pread(MIB, 0), self.content[2 * MIB:3 * MIB])

    def test_trim_discards(self):
        client = self.connect(self.linear())
        before = self.blocks()
        client.trim(2 * MIB, MIB)
        client.trim(2 * MIB, 4 * MIB, FUA)
        client.flush()
        self.assertLessEqual(self.blocks(), before - 4 * MIB // SECTOR + 64)
        self.content[MIB:3 * MIB] = self.content[4 * MIB:6 * MIB] = bytes(2 * MIB)
        self.assertEqual(client.pread(SIZE, 0), self.content)

    def test_a_trim_of_odd_sectors_spares_its_neighbours(self):
        client = self.connect(self.linear())
        client.trim(21 * SECTOR, 5 * SECTOR)
        got = client.pread(SIZE, 0)
        self.assertEqual(got[:5 * SECTOR], self.content[:5 * SECTOR])
        self.assertEqual(got[26 * SECTOR:], self.content[26 * SECTOR:])

    def test_zero_of_every_kind(self):
        client = self.connect(self.linear())
        for at, length, flags in ((0, MIB, 0), (MIB, MIB, NO_HOLE), (2 * MIB, MIB, FUA),
                                  (3 * MIB + 3 * SECTOR, 9 * SECTOR, 0),
                                  (4 * MIB + SECTOR, SECTOR, NO_HOLE | FUA)):
            client.zero(length, at, flags)
            self.content[at:at + length] = bytes(length)
            self.assertEqual(client.pread(SIZE, 0), self.content, (at, length, flags))
        client.flush()
        self.assertEqual(self.on_disk(), self.content)

    def test_fast_zero_is_done_or_declined_and_declining_changes_nothing(self):
        client = self.connect(self.linear())
        self.assertTrue(client.can_fast_zero())
        for at, length in ((0, MIB), (MIB + SECTOR, 3 * SECTOR)):
            try:
                client.zero(length, at, FAST_ZERO)
                self.content[at:at + length] = bytes(length)
            except harness.nbd.Error as error:
                self.assertEqual(error.errno, "ENOTSUP")
            self.assertEqual(client.pread(SIZE, 0), self.content)

    def test_fua_is_on_the_disk_and_flush_covers_all(self):
        server = self.linear()
        one, other = self.connect(server), self.connect(server)
        one.pwrite(pattern(4096, 7), 8192, FUA)
        # Not through the page cache of the loop device: what its driver has been given.
        self.assertEqual(self.read_file(self.file, 8192, 4096), pattern(4096, 7))
        one.pwrite(pattern(4096, 8), 65536)
        other.flush()
        self.assertEqual(self.read_file(self.file, 65536, 4096), pattern(4096, 8))

    def test_a_table_larger_than_the_device_is_refused(self):
        said = self.refuse(f"table=0 {SIZE // SECTOR + 8} linear {self.loop} 0")
        self.assertIn(self.loop, said)
        self.assertIn(str(SIZE // SECTOR), said)

    def test_a_device_that_only_reads(self):
        loop = self.attach(self.make_file("other.img", SIZE, seed=3), "--read-only")
        table = f"table=0 {SIZE // SECTOR} linear {loop} 0"
        self.assertIn("read-only", self.refuse(table))
        client = self.connect(self.serve(table, "readonly=true"), strict=False)
        self.assertTrue(client.is_read_only())
        self.assertEqual(client.pread(SIZE, 0), pattern(SIZE, 3))
        self.assert_errno("EPERM", client.pwrite, bytes(SECTOR), 0)


@unittest.skipIf(MISSING, MISSING)
class Sectors512(Common, LoopCase):
    pass


@unittest.skipIf(MISSING, MISSING)
class Sectors4096(Common, LoopCase):
    block = 4096

    def test_it_is_one(self):
        with open(f"/sys/block/{os.path.basename(self.loop)}/queue/logical_block_size",
                  encoding="utf-8") as size:
            self.assertEqual(size.read().strip(), "4096")


if __name__ == "__main__":
    unittest.main()
