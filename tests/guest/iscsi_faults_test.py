"""open-iscsi while something breaks: a leg under a mirrored LUN, one of two paths."""

import json
import re

import setting  # first: it makes the functional tests' harness importable

import harness
import mirror_legs
from iscsi_guest import MIB, IscsiGuest

SIZE_MIB = 64


class MirrorTest(IscsiGuest):
    """A LUN mirrored over a file and a server, which is stopped while the guest writes."""

    name = "iscsi-mirror"

    def path(self, name: str) -> str:
        """For the leg's server, which takes this test for one of the functional ones."""
        return str(self.folder / name)

    def make_file(self, name: str, size: int) -> str:
        with open(self.path(name), "wb") as file:
            file.truncate(size)
        return self.path(name)

    def first_table(self) -> str:
        size = SIZE_MIB * MIB
        self.legs = [mirror_legs.FileLeg(self, size), mirror_legs.Nbdkit(self, size)]
        legs = " ".join(f"{leg.uri()} 0" for leg in self.legs)
        log = self.make_file("log.img", MIB)
        return (f"0 {size // 512} mirror disk 3 {log} 128 nosync 2 {legs} "
                "4 timeout_ms 2000 clean_delay_ms 500")

    def health(self) -> str:
        answer = self.server.rpc("status", {"device": "vol"})
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return re.search(r"\d+/\d+ 1 ([ADSRU]+)", text).group(1)

    def test_a_leg_is_stopped_while_the_guest_writes(self):
        guest, leg = self.guest, self.legs[1]
        guest.wait_ready()
        self.start_iscsid()
        self.log_in()
        guest.run("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt")
        for _ in range(2):
            self.write_file()
        self.assertEqual(self.health(), "AA")
        leg.freeze()
        for _ in range(6):
            self.write_file()
        self.assertNotEqual(self.health(), "AA")
        self.read_files()
        leg.thaw()
        for _ in range(2):
            self.write_file()
        harness.wait_until(lambda: self.health() == "AA", "the leg is whole again")
        self.read_files()
        guest.run("umount /mnt && e2fsck -f -n /dev/sda")
        self.assertEqual(guest.run("dmesg | grep -E 'I/O error|EXT4-fs error|rejecting I/O'",
                                   check=False)[1], "")
        self.finish()
        first, second = (leg.content() for leg in self.legs)
        differ = [at for at in range(0, len(first), 4096)
                  if first[at:at + 4096] != second[at:at + 4096]]
        self.assertEqual(differ, [], "the legs are equal, byte for byte")


class PathsTest(IscsiGuest):
    """Two portals are two paths, under the kernel's dm-multipath."""

    name = "iscsi-paths"
    portals = 2
    replacement = 2

    def first_table(self) -> str:
        with open(self.disk, "wb") as file:
            file.truncate(SIZE_MIB * MIB)
        return f"0 {SIZE_MIB * MIB // 512} linear {self.disk} 0"

    def paths(self) -> dict[str, str]:
        """Of dm-multipath: device number → A or F."""
        return dict(re.findall(r"(\d+:\d+) ([AF]) ", self.guest.shell("dmsetup", "status", "mp")))

    def sessions(self) -> dict[str, int]:
        """Portal → TSIH."""
        return {s["portal"]: s["tsih"] for s in self.server.rpc("iscsi_sessions")["sessions"]}

    def cut(self, port: int) -> None:
        """Nobody listens there any more, and the session that came that way ends."""
        others = [other for other in self.ports if other != port]
        self.configure(self.first_line, others)
        self.server.rpc("reload")
        self.server.rpc("iscsi_kick", {"tsih": self.sessions()[f"127.0.0.1:{port}"]})

    def mend(self) -> None:
        self.configure(self.first_line, self.ports)
        self.server.rpc("reload")
        harness.wait_until(lambda: len(self.sessions()) == 2, "the path's session is back")

    def files_written(self) -> int:
        return int(self.guest.shell("cat", "/tmp/count"))

    def more_files(self) -> None:
        """Two more from now on: one may have been under way."""
        self.wait_for(f"[ $(cat /tmp/count) -ge {self.files_written() + 2} ]")

    def test_a_path_is_cut_and_comes_back(self):
        guest = self.guest
        self.first_line = f"0 {SIZE_MIB * MIB // 512} linear {self.disk} 0"
        guest.wait_ready()
        self.start_iscsid()
        self.log_in()
        guest.run("modprobe dm-multipath && modprobe dm-round-robin")
        wwids = guest.run("cat /sys/block/sd[ab]/device/wwid")[1].split()
        self.assertEqual(wwids, wwids[:1] * 2, "both are one unit")
        numbers = guest.run("cat /sys/block/sd[ab]/dev")[1].split()
        line = (f"0 {SIZE_MIB * MIB // 512} multipath 0 0 1 1 round-robin 0 2 1 "
                + " ".join(f"{number} 8" for number in numbers))
        guest.run(f"dmsetup create mp --table '{line}'")
        guest.run("mkfs.ext4 -q /dev/mapper/mp && mount /dev/mapper/mp /mnt")
        for _ in range(2):
            self.write_file()
        # Files of 1 MiB again and again, each verified; the first that goes wrong ends it.
        guest.run("""
            echo 0 >/tmp/count
            (set -e
             n=0
             while [ ! -e /tmp/stop ]; do
                 seeded_io generate $n 1048576 >/tmp/wanted
                 cp /tmp/wanted /mnt/busy && sync
                 echo 1 >/proc/sys/vm/drop_caches
                 cmp /tmp/wanted /mnt/busy
                 n=$((n + 1))
                 echo $n >/tmp/next && mv /tmp/next /tmp/count
             done
             echo fine >/tmp/ended) </dev/null >/tmp/busy.log 2>&1 &""")
        self.more_files()
        self.assertEqual(set(self.paths().values()), {"A"})
        for port in self.ports:  # each in its turn
            self.cut(port)
            harness.wait_until(lambda: sorted(self.paths().values()) == ["A", "F"],
                               "the path has failed")
            self.more_files()
            self.write_file()
            self.mend()
            [failed] = [number for number, state in self.paths().items() if state == "F"]
            # What multipathd does once its checker sees the path again.
            guest.run("for i in $(seq 300); do "
                      f"[ $(cat /sys/dev/block/{failed}/device/state) = running ] && break; "
                      "sleep 0.1; done; "
                      f"dmsetup message mp 0 'reinstate_path {failed}'")
            self.more_files()
            self.assertEqual(set(self.paths().values()), {"A"})
        guest.run("touch /tmp/stop")
        self.wait_for("[ -e /tmp/ended ]")
        self.read_files()
        guest.run("umount /mnt && e2fsck -f -n /dev/mapper/mp && dmsetup remove mp")
        self.assertEqual(guest.run("dmesg | grep -E 'EXT4-fs error|Buffer I/O error'",
                                   check=False)[1], "")
        self.finish()
