"""Clients that people use: libiscsi's tools, qemu-img and qemu-io; and NBD beside them."""

import os
import re

import harness
import iscsi
from harness import pattern

SIZE = 16 << 20


class Clients(iscsi.Case):
    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", SIZE, seed=11)
        self.server = self.serve_iscsi(f"table=0 {SIZE // 512} linear {self.disk} 0")

    def test_iscsi_ls_finds_the_target_and_its_lun(self):
        out = self.command("iscsi-ls", "-s", f"iscsi://127.0.0.1:{self.port}").stdout
        self.assertIn(f"Target:{iscsi.TARGET} Portal:127.0.0.1:{self.port},1", out)
        self.assertRegex(out, r"Lun:0 +Type:DIRECT_ACCESS \(Size:15M\)")

    def test_iscsi_inq_and_readcapacity16(self):
        out = self.command("iscsi-inq", self.url()).stdout
        self.assertIn("Peripheral Device Type:DIRECT_ACCESS", out)
        out = self.command("iscsi-readcapacity16", self.url()).stdout
        self.assertIn(f"Total size:{SIZE}", out)

    def test_a_header_digest(self):
        self.command("iscsi-inq", self.url() + "?header_digest=crc32c")

    def qemu_io(self, *commands):
        words = [word for c in commands for word in ("-c", c)]
        done = self.command("qemu-io", "-f", "raw", *words, self.url())
        self.assertNotIn("failed", done.stdout.lower())
        return done.stdout

    def test_qemu_io_writes_and_verifies_patterns(self):
        self.qemu_io("write -P 0xa5 0 1M", "write -P 0x5a 1M 64k", "read -P 0xa5 0 1M",
                     "read -P 0x5a 1M 64k", "flush")
        self.assertEqual(self.read_file(self.disk, 0, 1 << 20), b"\xa5" * (1 << 20))
        self.assertEqual(self.read_file(self.disk, 1 << 20, 65536), b"\x5a" * 65536)
        self.assertEqual(self.read_file(self.disk, (1 << 20) + 65536, 512),
                         pattern(SIZE, 11)[(1 << 20) + 65536:][:512])

    def test_qemu_io_zeroes_and_discards(self):
        self.qemu_io("write -P 1 0 1M", "write -z 0 128k", "discard 512k 128k",
                     "read -P 0 0 128k", "read -P 1 128k 128k")

    def test_qemu_img_copies_both_ways(self):
        source = self.make_file("source", SIZE, seed=12)
        self.command("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, self.url())
        self.assertEqual(self.read_file(self.disk), pattern(SIZE, 12))
        copy = self.path("copy")
        self.command("qemu-img", "convert", "-f", "raw", "-O", "raw", self.url(), copy)
        self.assertEqual(self.read_file(copy), pattern(SIZE, 12))

    def test_qemu_img_info_tells_the_size(self):
        out = self.command("qemu-img", "info", "-f", "raw", self.url()).stdout
        self.assertIn(f"({SIZE} bytes)", out)

    def test_what_one_protocol_writes_the_other_reads(self):
        nbd = self.connect(self.server)
        session = self.session()
        nbd.pwrite(pattern(4096, 1), 8192)
        self.assertEqual(session.read(16, 8)[1], pattern(4096, 1))
        self.assertEqual(session.write(16, pattern(4096, 2)).status, 0)
        self.assertEqual(nbd.pread(4096, 8192), pattern(4096, 2))


class Load(iscsi.Case):
    """The load generator is a client, too: many commands at once, and none may fail."""

    def test_queue_depth_and_sessions(self):
        load = os.path.join(harness.BUILD, "tests/bench/iscsi_load")
        disk = self.make_file("a.img", SIZE)
        self.serve_iscsi(f"table=0 {SIZE // 512} linear {disk} 0")
        for words in (["--op", "read"], ["--op", "write"], ["--op", "write", "--block", "131072"],
                      ["--op", "read", "--block", "1048576", "--digest"]):
            out = self.command(load, "--seconds", "0.3", "--depth", "16", "--sessions", "3", *words,
                               self.url()).stdout
            self.assertRegex(out, r'"errors": 0,')
            self.assertGreater(int(re.search(r'"operations": (\d+)', out)[1]), 10)
