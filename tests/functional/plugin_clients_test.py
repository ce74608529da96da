"""Real clients in front, and nbdkit's filters between."""

import json
import os

import harness
from harness import MIB, SECTOR, pattern, sectors
from layout import Striped, gather

SIZE = 32 * MIB


class Clients(harness.Case):
    def setUp(self):
        super().setUp()
        self.legs = [self.make_file(name, SIZE // 2) for name in ("a.img", "b.img")]
        self.layout = Striped(64 * 1024, SIZE, *((leg, 0) for leg in self.legs))
        self.table = (f"table=0 {sectors(SIZE)} striped 2 128 {self.legs[0]} 0 {self.legs[1]} 0")
        self.server = self.serve(self.table)
        self.source = self.make_file("source.img", SIZE, seed=9)

    def test_nbdcopy_both_ways(self):
        for uri in (self.server.uri(), self.server.tcp_uri()):
            back = self.path("back.img")
            self.command("nbdcopy", "--flush", self.source, uri)
            self.assertEqual(gather(self.layout), self.read_file(self.source))
            self.command("nbdcopy", uri, back)
            self.assertEqual(self.read_file(back), self.read_file(self.source))
            self.command("nbdcopy", "--destination-is-zero", "--", "null:", uri, check=False)

    def test_nbdinfo_says_it_all(self):
        found = json.loads(self.command("nbdinfo", "--json", self.server.uri()).stdout)
        export = found["exports"][0]
        self.assertEqual(export["export-size"], SIZE)
        for able in ("can_multi_conn", "can_fua", "can_fast_zero", "can_trim", "can_cache"):
            self.assertTrue(export[able], able)
        self.assertEqual(export["block_size_minimum"], 512)

    def test_qemu_img(self):
        uri = self.server.uri()
        info = json.loads(self.command("qemu-img", "info", "--output=json", uri).stdout)
        self.assertEqual(info["virtual-size"], SIZE)
        self.command("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", self.source, uri)
        self.command("qemu-img", "compare", "-f", "raw", "-F", "raw", self.source, uri)
        self.assertEqual(gather(self.layout), self.read_file(self.source))
        back = self.path("back.img")
        self.command("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back)
        self.assertEqual(self.read_file(back), self.read_file(self.source))

    def test_qemu_io_patterns(self):
        done = self.command(
            "qemu-io", "-f", "raw", "-c", "write -P 0x5a 65000 70000", "-c", "write -f -P 0xa5 1M 1M",
            "-c", "write -z 1536k 64k", "-c", "discard 4M 1M", "-c", "flush",
            "-c", "read -P 0x5a 65000 70000", "-c", "read -P 0xa5 1M 512k",
            "-c", "read -P 0 1536k 64k", "-c", "read -P 0 4M 1M", self.server.uri())
        self.assertNotIn("verification failed", done.stdout)
        self.assertEqual(gather(self.layout, 65000 // SECTOR * SECTOR + SECTOR, 4096),
                         b"\x5a" * 4096)

    def test_fio_writes_and_verifies(self):
        for depth, size, sync in ((1, "4k", "0"), (32, "64k", "0"), (8, "4k", "32")):
            self.command(
                "fio", "--name=v", "--ioengine=nbd", f"--uri={self.server.uri()}", "--rw=randwrite",
                f"--bs={size}", f"--iodepth={depth}", "--size=16m", "--verify=crc32c",
                f"--fsync={sync}", "--do_verify=1", "--verify_fatal=1", "--randseed=3")

    def test_fio_with_four_connections(self):
        self.command(
            "fio", "--name=v", "--ioengine=nbd", f"--uri={self.server.uri()}", "--rw=randrw",
            "--bs=4k", "--iodepth=16", "--numjobs=4", "--size=4m", "--offset_increment=4m",
            "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--group_reporting")

    def test_nbdsh(self):
        script = ("h.pwrite(b'z' * 1024, 512); h.flush(); "
                  "assert h.pread(1024, 512) == b'z' * 1024; print(h.get_size())")
        done = self.command("nbdsh", "-u", self.server.uri(), "-c", script,
                            environment={"PATH": "/usr/bin:/bin"})
        self.assertEqual(done.stdout.strip(), str(SIZE))


class Filters(harness.Case):
    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", 4 * MIB, seed=1)
        self.table = f"table=0 8192 linear {self.disk} 0"

    def test_stats(self):
        stats = self.path("stats.txt")
        server = self.serve(self.table, f"statsfile={stats}", filters=["stats"])
        client = self.connect(server)
        client.pwrite(pattern(MIB, 2), 0)
        client.pread(MIB, 0)
        self.hang_up(client)
        self.assertEqual(server.terminate(), 0)
        text = self.read_file(stats).decode()
        self.assertRegex(text, r"write: 1 ops")
        self.assertRegex(text, r"read: 1 ops")

    def test_delay(self):
        server = self.serve(self.table, "rdelay=300ms", filters=["delay"])
        client = self.connect(server)
        began = harness.time.monotonic()
        self.assertEqual(client.pread(SECTOR, 0), pattern(4 * MIB, 1)[:SECTOR])
        self.assertGreaterEqual(harness.time.monotonic() - began, 0.3)

    def test_cow_keeps_the_legs_as_they_are(self):
        client = self.connect(self.serve(self.table, filters=["cow"]))
        client.pwrite(bytes(MIB), 0)
        self.assertEqual(client.pread(MIB, 0), bytes(MIB))
        self.assertEqual(self.read_file(self.disk), pattern(4 * MIB, 1))

    def test_ip(self):
        # By family: nbdkit reads addresses with AI_ADDRCONFIG, which a machine without a network
        # does not pass.
        server = self.serve(self.table, "allow=anyipv4", "deny=all", filters=["ip"], ready=False)
        client = self.connect(server, uri=server.tcp_uri())
        self.assertEqual(client.pread(SECTOR, 0), pattern(4 * MIB, 1)[:SECTOR])
        with self.assertRaises(harness.nbd.Error):
            self.connect(server)

    def test_several_at_once_with_exports(self):
        log = self.path("log.txt")
        server = self.serve(f"device=one:0 8192 linear {self.disk} 0", "device=two:0 64 zero",
                            f"logfile={log}", "rate=1G", filters=["log", "rate", "blocksize-policy"])
        self.assertEqual(self.connect(server, "one").pread(SECTOR, 0), pattern(4 * MIB, 1)[:SECTOR])
        self.assertEqual(self.connect(server, "two").pread(SECTOR, 0), bytes(SECTOR))
        self.assertIn("Read", self.read_file(log).decode())

    def test_partition_and_offset_see_the_devices_bytes(self):
        server = self.serve(self.table, "offset=1M", "range=1M", filters=["offset"])
        client = self.connect(server)
        self.assertEqual(client.get_size(), MIB)
        self.assertEqual(client.pread(MIB, 0), pattern(4 * MIB, 1)[MIB:2 * MIB])

    def test_run_gives_a_captive_server(self):
        done = self.command("nbdkit", "-U", "-", harness.PLUGIN, self.table, "--run",
                            "nbdinfo --size $uri")
        self.assertEqual(done.stdout.strip(), str(4 * MIB))


if __name__ == "__main__":
    harness.unittest.main()
