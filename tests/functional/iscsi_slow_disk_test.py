"""A disk that does not answer holds up the commands for it, and nothing else."""

import os
import select
import struct
import unittest

import harness
import iscsi
from harness import pattern

FAST = 1  # the LUN; 0 is slow
PATIENT = "iqn.2026-11.org.blockloom.test:patient"
DISK = 4 << 20
SYNCHRONIZE_CACHE = b"\x35" + bytes(9)


def write10_fua(lba, blocks):
    return struct.pack(">BBIBHB", 0x2a, 0x08, lba, 0, blocks, 0)


@unittest.skipIf(os.environ.get("BLOCKLOOM_SANITIZER"),
                 "a sanitizer's runtime stands where the slow disk's calls would be")
class SlowDisk(iscsi.Case):
    def setUp(self):
        super().setUp()
        self.port = self.free_port()
        slow = self.make_file("slow.img", DISK, seed=1)
        fast = self.make_file("fast.img", DISK, seed=2)
        self.gate = self.path("gate")
        config = self.write_text("blockloom.toml", f"""
[iscsi]
portals = ["127.0.0.1:{self.port}"]
threads = 1
[[iscsi.target]]
name = "{iscsi.TARGET}"
luns = ["slow", "fast"]
[[device]]
name = "slow"
table = "0 {DISK // 512} linear {slow} 0"
[[device]]
name = "fast"
table = "0 {DISK // 512} linear {fast} 0"
""")
        preload = os.path.join(harness.BUILD, "tests/functional/slow-disk.so")
        sanitizer = harness.PRELOAD.get("LD_PRELOAD")
        self.server = self.serve(
            f"config={config}", "default=fast", control=True,
            environment={"LD_PRELOAD": f"{sanitizer}:{preload}" if sanitizer else preload,
                         "BLOCKLOOM_SLOW_FILE": slow, "BLOCKLOOM_SLOW_GATE": self.gate})
        self.patient = self.session(name=PATIENT)
        self.busy = self.session(name="iqn.2026-11.org.blockloom.test:busy")
        self.busy.clear_attentions(FAST)

    def hang(self):
        with open(self.gate, "wb"):
            pass
        self.addCleanup(self.answer)

    def answer(self):
        if os.path.exists(self.gate):
            os.unlink(self.gate)

    def check_others(self):
        """The other session reads, writes and flushes, and the first has heard nothing yet."""
        for lba in range(0, 64, 8):
            self.assertEqual(self.busy.read(lba, 8, lun=FAST)[1],
                             pattern(DISK, 2)[lba * 512:(lba + 8) * 512])
        self.assertEqual(self.busy.write(4096, bytes(512), lun=FAST).status, 0)
        flush = self.busy.command(SYNCHRONIZE_CACHE, lun=FAST)
        self.assertEqual(self.busy.finish(flush)[0].status, 0)
        self.assertEqual(select.select([self.patient.socket], [], [], 0)[0], [])

    def test_reads_of_a_cold_file(self):
        self.hang()
        # More than one unit's share of threads.
        reads = [self.patient.command(iscsi.read10(8 * i, 8), 4096, 0x40) for i in range(8)]
        self.check_others()
        self.answer()
        answers = {}  # in whatever order they come
        while len(answers) < len(reads):
            pdu = self.patient.receive()
            self.assertEqual((pdu.opcode, pdu.flags & 1, pdu.status), (iscsi.DATA_IN, 1, 0))
            answers[pdu.itt] = pdu.data
        for i, read in enumerate(reads):
            self.assertEqual(answers[read], pattern(DISK, 1)[i * 4096:(i + 1) * 4096])

    def test_flushes_and_durable_writes(self):
        self.hang()
        flush = self.patient.command(SYNCHRONIZE_CACHE)
        write = self.patient.command(write10_fua(16, 1), 512, 0x20, b"d" * 512)
        self.check_others()
        self.answer()
        tags = {self.patient.receive().itt, self.patient.receive().itt}
        self.assertEqual(tags, {flush, write})
        self.assertEqual(self.patient.read(16, 1)[1], b"d" * 512)

    def test_a_session_of_a_hanging_disk_that_goes_holds_up_no_other(self):
        self.hang()
        self.patient.command(iscsi.read10(0, 8), 4096, 0x40)
        self.check_others()
        self.patient.close()
        third = self.session(name="iqn.2026-11.org.blockloom.test:third")
        third.clear_attentions(FAST)
        self.assertEqual(third.read(0, 8, lun=FAST)[1], pattern(DISK, 2)[:4096])
        self.answer()
        again = self.session(name=PATIENT)
        self.assertEqual(again.read(0, 8)[1], pattern(DISK, 1)[:4096])

    def test_no_read_that_waited_is_counted_twice(self):
        before = self.server.rpc("stats", {"device": "slow"})["devices"][0]
        self.hang()
        read = self.patient.command(iscsi.read10(0, 8), 4096, 0x40)
        self.check_others()
        self.answer()
        self.assertEqual(self.patient.finish(read)[0].status, 0)
        after = self.server.rpc("stats", {"device": "slow"})["devices"][0]
        self.assertEqual(after["io"]["reads"] - before["io"]["reads"], 1)
        self.assertEqual(after["io"]["errors"], before["io"]["errors"])
