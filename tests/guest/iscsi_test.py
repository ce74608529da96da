"""Debian's kernel and open-iscsi: discovery, CHAP, file systems, growing under a mount, trimming."""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import unittest

import setting  # first: it makes the functional tests' harness importable

import harness
import images
from machine import Machine

MIB = 1 << 20
SMALL_MIB, LARGE_MIB = 64, 128
XFS_MIB = 336  # mkfs.xfs wants 300
FILE_BYTES = 3 * MIB - 777
TARGET = "iqn.2026-11.org.blockloom.test:guest"
SECRET, MUTUAL = "initiator-secret", "target-secret-1"

ISCSID_CONF = f"""\
iscsid.startup = /usr/sbin/iscsid
node.startup = manual
node.session.auth.authmethod = CHAP
node.session.auth.username = guest
node.session.auth.password = {SECRET}
node.session.auth.username_in = server
node.session.auth.password_in = {MUTUAL}
node.session.timeo.replacement_timeout = 20
node.conn[0].timeo.login_timeout = 30
node.conn[0].iscsi.HeaderDigest = CRC32C,None
"""


class IscsiTest(unittest.TestCase):
    def setUp(self):
        self.folder = folder = setting.scratch / "iscsi"
        folder.mkdir()
        sockets = tempfile.mkdtemp(prefix="bl-")
        self.addCleanup(shutil.rmtree, sockets)
        self.disk = folder / "disk.img"
        self.resize_disk(SMALL_MIB)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        secrets = os.path.join(sockets, "secrets")
        with open(secrets, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"initiator guest {SECRET}\ntarget server {MUTUAL}\n")
        config = os.path.join(sockets, "blockloom.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"""\
[[device]]
name = "vol"
table = "{self.table(SMALL_MIB)}"
[iscsi]
portals = [{{ address = "127.0.0.1:{self.port}", advertise = "10.0.2.2:{self.port}" }}]
[[iscsi.target]]
name = "{TARGET}"
luns = ["vol"]
chap = "{secrets}"
""")
        command = ["nbdkit", harness.PLUGIN, f"config={config}", f"control={sockets}/control.sock"]
        self.server = harness.Server(sockets, command).wait_ready()
        self.addCleanup(shutil.copy, self.server.log_path, folder / "server.log")
        self.addCleanup(self.server.stop)
        self.guest = Machine(images.prepare(setting.build), folder,
                             files={"usr/bin/seeded_io": setting.seeded_io()})
        self.addCleanup(self.guest.kill)
        self.written: dict[str, str] = {}  # name → SHA-256
        self.growths = 0

    def resize_disk(self, mib: int) -> None:
        with open(self.disk, "ab") as file:
            file.truncate(mib * MIB)

    def table(self, mib: int) -> str:
        return f"0 {mib * MIB // 512} linear {self.disk} 0"

    def grow(self, mib: int) -> None:
        self.resize_disk(mib)
        self.server.rpc("load", {"device": "vol", "table": self.table(mib)})
        self.assertTrue(self.server.rpc("resume", {"device": "vol"})["swapped"])

    # Steps in the guest.

    def start_iscsid(self) -> None:
        self.guest.run(f"""
            modprobe iscsi_tcp && modprobe sd_mod
            mkdir -p /etc/iscsi /run/lock/iscsi /var/lib/iscsi
            echo InitiatorName=iqn.2026-11.org.blockloom.test:initiator \
                >/etc/iscsi/initiatorname.iscsi
            cat >/etc/iscsi/iscsid.conf <<'END'
{ISCSID_CONF}END
            iscsid""")

    def size(self) -> int:
        return int(self.guest.shell("blockdev", "--getsize64", "/dev/sda"))

    def wait_for(self, condition: str) -> None:
        self.guest.run(f"for i in $(seq 300); do {condition} && exit 0; sleep 0.1; done; exit 1")

    def write_file(self) -> None:
        number = len(self.written)
        seed = str(setting.seed + number)
        data = subprocess.run([setting.seeded_io(), "generate", seed, str(FILE_BYTES)],
                              capture_output=True, check=True).stdout
        self.written[f"file{number}"] = hashlib.sha256(data).hexdigest()
        self.guest.run(f"seeded_io generate {seed} {FILE_BYTES} >/mnt/file{number} && sync")

    def read_files(self) -> None:
        out = self.guest.run("echo 3 >/proc/sys/vm/drop_caches; cd /mnt && sha256sum file*")[1]
        sums = {name: digest for digest, name in map(str.split, out.splitlines())}
        self.assertEqual(sums, self.written)

    def blocks_used(self) -> int:
        return os.stat(self.disk).st_blocks * 512

    # The parts.

    def check_login(self) -> None:
        guest = self.guest
        found = guest.run(f"iscsiadm -m discovery -t sendtargets -p 10.0.2.2:{self.port}")[1]
        self.assertIn(f"10.0.2.2:{self.port},1 {TARGET}", found)
        guest.run("iscsiadm -m node --login")
        self.wait_for("[ -b /dev/sda ]")
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
        guest.run("iscsiadm -m node --logout")
        self.wait_for("[ ! -b /dev/sda ]")
        self.assertEqual(guest.run("dmesg | grep -E 'I/O error|EXT4-fs error|XFS.*[Cc]orrupt'",
                                   check=False)[1], "")
        guest.finish()
        self.assertEqual(self.server.terminate(), 0)
