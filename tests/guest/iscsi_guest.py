"""What the tests of open-iscsi share: a server with one LUN, a guest that logs in to it, files."""

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
node.conn[0].timeo.login_timeout = 30
node.conn[0].iscsi.HeaderDigest = CRC32C,None
"""


class IscsiGuest(unittest.TestCase):
    """`name` is the folder's; `portals`, how many; `replacement`: seconds that the initiator waits
    for a session to come back before it fails what is under way."""

    name = ""
    portals = 1
    replacement = 20

    def setUp(self):
        self.folder = folder = setting.scratch / self.name
        folder.mkdir()
        self.sockets = tempfile.mkdtemp(prefix="bl-")
        self.addCleanup(shutil.rmtree, self.sockets)
        self.disk = folder / "disk.img"
        self.ports = [self.free_port() for _ in range(self.portals)]
        self.secrets = os.path.join(self.sockets, "secrets")
        with open(self.secrets, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"initiator guest {SECRET}\ntarget server {MUTUAL}\n")
        self.config = os.path.join(self.sockets, "blockloom.toml")
        table = self.first_table()
        self.configure(table, self.ports)
        command = ["nbdkit", harness.PLUGIN, f"config={self.config}",
                   f"control={self.sockets}/control.sock"]
        self.server = harness.Server(self.sockets, command).wait_ready()
        self.addCleanup(shutil.copy, self.server.log_path, folder / "server.log")
        self.addCleanup(self.server.stop)
        self.guest = Machine(images.prepare(setting.build), folder,
                             files={"usr/bin/seeded_io": setting.seeded_io()})
        self.addCleanup(self.guest.kill)
        self.written: dict[str, str] = {}  # name → SHA-256

    @staticmethod
    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return probe.getsockname()[1]

    def first_table(self) -> str:
        """The device's; makes what it stands on."""
        raise NotImplementedError

    def configure(self, table: str, ports: list[int]) -> None:
        portals = ", ".join(f'{{ address = "127.0.0.1:{port}", advertise = "10.0.2.2:{port}" }}'
                            for port in ports)
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f"""\
[[device]]
name = "vol"
table = "{table}"
[iscsi]
portals = [{portals}]
[[iscsi.target]]
name = "{TARGET}"
luns = ["vol"]
chap = "{self.secrets}"
""")

    # Steps in the guest.

    def start_iscsid(self) -> None:
        self.guest.run(f"""
            modprobe iscsi_tcp && modprobe sd_mod
            mkdir -p /etc/iscsi /run/lock/iscsi /var/lib/iscsi
            echo InitiatorName=iqn.2026-11.org.blockloom.test:initiator \
                >/etc/iscsi/initiatorname.iscsi
            cat >/etc/iscsi/iscsid.conf <<'END'
{ISCSID_CONF}node.session.timeo.replacement_timeout = {self.replacement}
END
            iscsid""")

    def log_in(self) -> None:
        """Discovery, and a session through each portal; their disks are sda, sdb, …"""
        found = self.guest.run(
            f"iscsiadm -m discovery -t sendtargets -p 10.0.2.2:{self.ports[0]}")[1]
        for port in self.ports:
            self.assertIn(f"10.0.2.2:{port},1 {TARGET}", found)
        self.guest.run("iscsiadm -m node --login")
        for letter in "ab"[:self.portals]:
            self.wait_for(f"[ -b /dev/sd{letter} ]")

    def wait_for(self, condition: str) -> None:
        self.guest.run(f"for i in $(seq 600); do {condition} && exit 0; sleep 0.1; done; exit 1")

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

    def finish(self) -> None:
        """Logs out, and ends both sides in order."""
        self.guest.run("iscsiadm -m node --logout")
        self.wait_for("[ ! -b /dev/sda ]")
        self.guest.finish()
        self.assertEqual(self.server.terminate(), 0)
