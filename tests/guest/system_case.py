"""Tests of an installed Blockloom, under systemd, in a guest: one boot for each class."""

import shutil
import unittest

import setting  # first: it makes the functional tests' harness importable

import images
import system_image
from machine import Machine

CONFIG = "/etc/blockloom/blockloom.toml"
DROP_INS = "/run/systemd/system/blockloomd.service.d"
SERVICE, SOCKET = "blockloomd.service", "blockloomd.socket"

LIMIT_S = 600  # of one boot with all tests of a class
PATIENCE_S = 60  # until what must come has come

# Before each test: stopped, without configuration, state, drop-ins and legs of the one before.
FRESH = f"""
systemctl stop {SOCKET} {SERVICE}
[ ! -d {DROP_INS} ] || {{ rm -r {DROP_INS} && systemctl daemon-reload; }}
systemctl reset-failed
rm -rf {CONFIG} /etc/blockloom/conf.d/* /var/lib/blockloom/state /srv/* /run/test
mkdir /run/test
"""


class SystemCase(unittest.TestCase):
    NAME = ""  # of the folder with the logs
    DISK_BYTES = 0  # of /dev/vda; none if 0

    @classmethod
    def setUpClass(cls):
        folder = setting.scratch / cls.NAME
        files = system_image.installed(setting.build, folder / "installed")
        cls.example = next("/" + path for path in files if path.endswith("/blockloom.toml"))
        files["usr/bin/seeded_io"] = setting.seeded_io()
        disks = []
        if cls.DISK_BYTES:
            disks.append(folder / "disk.img")
            with open(disks[0], "wb") as disk:
                disk.truncate(cls.DISK_BYTES)
        cls.guest = Machine(images.prepare(setting.build), folder, files=files, disks=disks,
                            system=system_image.prepare(setting.build), memory_mib=768,
                            limit_s=LIMIT_S)
        cls.addClassCleanup(cls.guest.kill)
        shutil.rmtree(folder / "installed")
        cls.guest.wait_ready()

    @classmethod
    def tearDownClass(cls):
        journal = cls.guest.run("journalctl --no-pager -o short-monotonic", check=False)[1]
        (setting.scratch / cls.NAME / "journal.log").write_text(journal)
        cls.guest.finish()

    def setUp(self):
        self.guest.run(FRESH)

    def run_in(self, script: str) -> str:
        return self.guest.run(script)[1]

    def configure(self, devices: str, listen: str = "") -> None:
        """The packaged example, with these devices; `listen` are listeners instead of its own."""
        change = f"-e 's|^listen = .*|listen = [{listen}]|'" if listen else ""
        self.run_in(f"sed -e '' {change} {self.example} >{CONFIG}\n"
                    f"cat >>{CONFIG} <<'END'\n{devices}\nEND")

    def drop_in(self, name: str, settings: str) -> None:
        """What `systemctl edit` would write."""
        self.run_in(f"mkdir -p {DROP_INS} && cat >{DROP_INS}/{name}.conf <<'END'\n"
                    f"[Service]\n{settings}\nEND\nsystemctl daemon-reload")

    def make_leg(self, path: str, mib: int) -> None:
        self.run_in(f"truncate -s {mib}M {path} && chown blockloom: {path} && chmod 600 {path}")

    def systemctl(self, *words: str) -> None:
        """On failure with what the service said."""
        command = " ".join(("systemctl", *words))
        self.run_in(f"{command} || {{ systemctl status --no-pager -l {SERVICE}; exit 1; }}")

    def show(self, name: str) -> str:
        """A property of the service, as `systemctl show` has it."""
        return self.run_in(f"systemctl show --value -p {name} {SERVICE}").strip()

    def said(self) -> str:
        """What the service wrote to the journal since it was last started."""
        return self.run_in(f"journalctl --no-pager -o cat _SYSTEMD_INVOCATION_ID="
                           f"$(systemctl show --value -p InvocationID {SERVICE})")

    def wait_until(self, condition: str, what: str = "") -> None:
        """A shell condition, in the guest."""
        rc, out = self.guest.run(
            f"end=$(($(date +%s) + {PATIENCE_S}))\n"
            f"while [ $(date +%s) -lt $end ]; do {condition} && exit 0; sleep 0.1; done\n"
            f"systemctl status --no-pager -l {SERVICE}; exit 1",
            check=False, limit_s=2 * PATIENCE_S)
        self.assertEqual(rc, 0, f"waited in vain until {what or condition}\n{out}")
