"""Debian's kernel and open-iscsi: discovery, CHAP, file systems, growing under a mount, trimming."""

import os

import setting  # first: it makes the functional tests' harness importable

from iscsi_guest import FILE_BYTES, MIB, IscsiGuest

SMALL_MIB, LARGE_MIB = 64, 128
XFS_MIB = 336  # mkfs.xfs wants 300


class IscsiTest(IscsiGuest):
    name = "iscsi"

    def setUp(self):
        super().setUp()
        self.growths = 0

    def first_table(self) -> str:
        self.resize_disk(SMALL_MIB)
        return self.table(SMALL_MIB)

    def resize_disk(self, mib: int) -> None:
        with open(self.disk, "ab") as file:
            file.truncate(mib * MIB)

    def table(self, mib: int) -> str:
        return f"0 {mib * MIB // 512} linear {self.disk} 0"

    def grow(self, mib: int) -> None:
        self.resize_disk(mib)
        self.server.rpc("load", {"device": "vol", "table": self.table(mib)})
        self.assertTrue(self.server.rpc("resume", {"device": "vol"})["swapped"])

    def size(self) -> int:
        return int(self.guest.shell("blockdev", "--getsize64", "/dev/sda"))

    def blocks_used(self) -> int:
        return os.stat(self.disk).st_blocks * 512

    # The parts.

    def check_login(self) -> None:
        guest = self.guest
        self.log_in()
        self.assertEqual(self.size(), SMALL_MIB * MIB)
        session = guest.run("iscsiadm -m session -P 2")[1]
        self.assertIn("HeaderDigest: CRC32C", session)
        self.assertIn("Attached scsi disk", guest.run("iscsiadm -m session -P 3")[1])
        sda = "/sys/block/sda"
        self.assertIn("BLOCKLM", guest.shell("cat", f"{sda}/device/vendor"))
        self.assertTrue(guest.shell("cat", f"{sda}/device/wwid").startswith("naa.3"))
        self.assertIn("write back", guest.shell("cat", f"{sda}/queue/write_cache"))
        self.assertGreater(int(guest.shell("cat", f"{sda}/queue/discard_max_bytes")), 0)
        self.assertGreater(int(guest.shell("cat", f"{sda}/queue/write_zeroes_max_bytes")), 0)
        self.assertEqual(guest.shell("cat", f"{sda}/queue/physical_block_size").strip(), "4096")
        self.assertEqual(guest.shell("cat", f"{sda}/queue/rotational").strip(), "0")

    def check_growing(self) -> None:
        """Mounted, once with iscsiadm's rescan and once with the kernel's own."""
        for mib, rescan in ((SMALL_MIB + 32, "iscsiadm -m session -R"),
                            (LARGE_MIB, "echo 1 >/sys/block/sda/device/rescan")):
            self.grow_in_guest(mib, rescan)
            self.guest.run("resize2fs /dev/sda")
            self.write_file()
            self.read_files()

    def grow_in_guest(self, mib: int, rescan: str) -> None:
        self.grow(mib)
        self.growths += 1
        # The next command of any kind hears of it.
        self.guest.run("dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null")
        self.wait_for(
            f"[ $(dmesg | grep -c 'Capacity data has changed') -ge {self.growths} ]")
        self.guest.run(rescan)
        self.wait_for(f"[ $(blockdev --getsize64 /dev/sda) = {mib * MIB} ]")

    def check_trimming(self) -> None:
        before = self.blocks_used()
        self.guest.run("rm /mnt/file0 /mnt/file1 && sync && fstrim /mnt")
        del self.written["file0"], self.written["file1"]
        self.assertLess(self.blocks_used(), before - FILE_BYTES)
        self.read_files()

    def test_open_iscsi(self):
        guest = self.guest
        guest.wait_ready()
        self.start_iscsid()
        self.check_login()
        guest.run("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt")
        for _ in range(6):
            self.write_file()
        self.read_files()
        self.check_growing()
        self.check_trimming()
        guest.run("umount /mnt && e2fsck -f -n /dev/sda")
        self.grow_in_guest(XFS_MIB, "iscsiadm -m session -R")
        guest.run("modprobe xfs && mkfs.xfs -q -f /dev/sda && mount -t xfs /dev/sda /mnt")
        self.written = {}
        for _ in range(3):
            self.write_file()
        self.read_files()
        guest.run("umount /mnt && xfs_repair -n /dev/sda")
        self.assertEqual(guest.run("dmesg | grep -E 'I/O error|EXT4-fs error|XFS.*[Cc]orrupt'",
                                   check=False)[1], "")
        self.finish()
