"""Debian's kernel keeps a file system on a device whose table changes under it all the time."""

import hashlib
import itertools
import shutil
import subprocess
import tempfile
import unittest

import setting  # first: it makes the functional tests' harness importable

import harness
import images
import layouts
from machine import Machine
from swapper import Swapper

MIB = 1 << 20
CHUNKS_PER_MIB = MIB // (512 * layouts.CHUNK)
# The device's size, before and after growing.
SMALL_MIB, LARGE_MIB = 48, 128
FILE_BYTES = 3 * MIB - 777
# More than the small device holds, so that files lie beyond its end.
FILES_BEFORE, FILES_AFTER = 8, 20
MIN_SWAPS = 20
TRIES = 10


class LayoutsTest(unittest.TestCase):
    def test_layouts_place_every_chunk_alike(self):
        """What the swaps rely on, or they would destroy the file system themselves."""
        for chunks in (CHUNKS_PER_MIB * SMALL_MIB, CHUNKS_PER_MIB * LARGE_MIB):
            places = [layouts.places(layout(["a", "b"], chunks)) for layout in layouts.ALL]
            self.assertEqual(len(places[0]), chunks)
            for other in places[1:]:
                self.assertEqual(places[0], other)


class NbdTest(unittest.TestCase):
    def setUp(self):
        self.folder = folder = setting.scratch / "nbd"
        folder.mkdir()
        sockets = tempfile.mkdtemp(prefix="bl-")
        self.addCleanup(shutil.rmtree, sockets)
        self.legs = [folder / "a.img", folder / "b.img"]
        self.chunks = 0
        self.resize_legs(SMALL_MIB)
        command = ["nbdkit", harness.PLUGIN, f"device=vol:{self.table(layouts.striped)}",
                   f"control={sockets}/control.sock"]
        self.server = harness.Server(sockets, command).wait_ready()
        self.addCleanup(shutil.copy, self.server.log_path, folder / "server.log")
        self.addCleanup(self.server.stop)
        self.guest = Machine(images.prepare(setting.build), folder,
                             files={"usr/bin/seeded_io": setting.seeded_io()})
        self.addCleanup(self.guest.kill)
        self.written: dict[str, str] = {}  # name → SHA-256

    def resize_legs(self, mib: int) -> None:
        self.chunks = mib * CHUNKS_PER_MIB
        for leg in self.legs:
            with open(leg, "ab") as file:
                file.truncate(mib * MIB // 2)

    def table(self, layout) -> str:
        return layout([str(leg) for leg in self.legs], self.chunks)

    def swapping(self) -> Swapper:
        """Starts to swap the layouts in turn."""
        tables = itertools.cycle([self.table(layout) for layout in layouts.ALL[::-1]])
        swapper = Swapper(self.server, "vol", lambda: next(tables)).start()
        self.addCleanup(swapper.stop)
        return swapper

    # Steps in the guest.

    def attach(self) -> None:
        self.guest.run(f"nbd-client 10.0.2.2 {self.server.port} /dev/nbd0 -N vol -C 2")

    def mount(self) -> None:
        self.guest.run("mount /dev/nbd0 /mnt")

    def unmount(self) -> None:
        self.guest.run("umount /mnt")

    def fsck(self) -> None:
        self.guest.run("e2fsck -f -n /dev/nbd0")

    def write_file(self) -> None:
        """One more file, down to the device."""
        number = len(self.written)
        seed = str(setting.seed + number)
        data = subprocess.run([setting.seeded_io(), "generate", seed, str(FILE_BYTES)],
                              capture_output=True, check=True).stdout
        self.written[f"file{number}"] = hashlib.sha256(data).hexdigest()
        path = f"/mnt/file{number}"
        self.guest.run(f"seeded_io generate {seed} {FILE_BYTES} >{path} && sync")

    def write_under_swaps(self, files: int) -> Swapper:
        """At least that many files, and on until enough swaps have met I/O."""
        swapper = self.swapping()
        for _ in range(files):
            self.write_file()
        for _ in range(TRIES):
            if swapper.swaps >= MIN_SWAPS:
                break
            self.read_files()
        return swapper

    def read_files(self) -> None:
        """From the device, and compares with what the host knows."""
        out = self.guest.run("echo 3 >/proc/sys/vm/drop_caches; cd /mnt && sha256sum file*")[1]
        sums = {name: digest for digest, name in map(str.split, out.splitlines())}
        self.assertEqual(sums, self.written)

    def assert_swapped(self, swapper: Swapper) -> None:
        swapper.stop()
        self.assertGreaterEqual(swapper.swaps, MIN_SWAPS, "too few swaps met I/O")
        print(f"     {swapper.swaps} swaps under I/O, the longest pause "
              f"{max(swapper.pauses_s) * 1000:.1f} ms", flush=True)

    def test_file_system_through_swaps_and_growth(self):
        guest = self.guest
        guest.wait_ready()
        guest.run("modprobe nbd")
        self.attach()
        guest.run("mkfs.ext4 -q /dev/nbd0")
        self.mount()
        swapper = self.write_under_swaps(FILES_BEFORE)
        self.assert_swapped(swapper)

        # It grows while the guest is attached; NBD tells the guest when it attaches again.
        self.resize_legs(LARGE_MIB)
        swapper = self.swapping()
        self.write_file()
        self.read_files()
        swapper.stop()
        self.unmount()
        self.fsck()
        guest.run("nbd-client -d /dev/nbd0")
        self.attach()
        self.assertEqual(guest.shell("blockdev", "--getsize64", "/dev/nbd0").strip(),
                         str(LARGE_MIB * MIB))
        guest.run("e2fsck -f -p /dev/nbd0 && resize2fs /dev/nbd0")
        self.mount()
        self.read_files()
        swapper = self.write_under_swaps(FILES_AFTER)
        self.unmount()
        self.fsck()
        self.mount()
        self.read_files()
        self.assert_swapped(swapper)
        self.unmount()
        self.fsck()
        guest.run("nbd-client -d /dev/nbd0")
        self.assertEqual(guest.run("dmesg | grep -E 'I/O error|EXT4-fs error|nbd.*(error|time)'",
                                   check=False)[1], "")
        self.assertGreater(len(self.written) * FILE_BYTES, SMALL_MIB * MIB)
        self.assert_legs_hold_the_device()
        guest.finish()
        self.assertEqual(self.server.terminate(), 0)

    def assert_legs_hold_the_device(self) -> None:
        """What the server serves is the legs' bytes, put together by this test."""
        copy = self.folder / "copy.img"
        subprocess.run(["nbdcopy", self.server.uri("vol"), copy], check=True, timeout=120)
        legs = {str(leg): leg.read_bytes() for leg in self.legs}
        size = layouts.CHUNK * 512
        whole = b"".join(legs[leg][sector * 512 : sector * 512 + size]
                         for leg, sector in layouts.places(self.table(layouts.linear)))
        self.assertTrue(copy.read_bytes() == whole, "the device is not its legs' bytes")
