"""Bytes: what clients write is where the table says, and what they read is what is there."""

import os
import random
import unittest

import harness
from harness import MIB, SECTOR, extents, pattern, sectors
from layout import Linear, Striped, gather, read_all, scribble

HOLE_ZERO, DATA = 3, 0


class Layouts(harness.Case):
    def check_layout(self, table, layout):
        server = self.serve(f"table={table}")
        client = self.connect(server)
        self.assertEqual(client.get_size(), layout.size)
        expected = scribble(client, gather(layout), seed=table)
        self.assertEqual(read_all(client, layout.size), expected)
        client.flush()
        self.assertEqual(gather(layout), expected)

    def test_linear_lies_at_its_offset(self):
        disk = self.make_file("a.img", 8 * MIB, seed=1)
        before = self.read_file(disk)
        self.check_layout(f"0 8192 linear {disk} 2048", Linear((disk, MIB, 4 * MIB)))
        after = self.read_file(disk)
        self.assertEqual(after[:MIB], before[:MIB])
        self.assertEqual(after[5 * MIB:], before[5 * MIB:])

    def test_segments_follow_each_other_and_requests_cross_them(self):
        a, b = self.make_file("a.img", MIB), self.make_file("b.img", 3 * MIB)
        self.check_layout(
            f"0 7 linear {a} 3\n7 2041 linear {b} 0\n2048 1 linear {a} 100\n2049 4000 linear {b} 2050",
            Linear((a, 3 * SECTOR, 7 * SECTOR), (b, 0, 2041 * SECTOR),
                   (a, 100 * SECTOR, SECTOR), (b, 2050 * SECTOR, 4000 * SECTOR)))

    def test_striped_over_two_files(self):
        a, b = self.make_file("a.img", 2 * MIB), self.make_file("b.img", 3 * MIB)
        self.check_layout(f"0 8192 striped 2 128 {a} 0 {b} 1024",
                          Striped(128 * SECTOR, 4 * MIB, (a, 0), (b, 1024 * SECTOR)))

    def test_striped_with_odd_chunks_over_three_files(self):
        legs = [self.make_file(f"{i}.img", 2 * MIB) for i in range(3)]
        chunk = 24
        size = 3 * chunk * 50
        self.check_layout(
            f"0 {size} striped 3 {chunk} " + " ".join(f"{leg} {i}" for i, leg in enumerate(legs)),
            Striped(chunk * SECTOR, size * SECTOR,
                    *((leg, i * SECTOR) for i, leg in enumerate(legs))))

    def test_one_request_over_thousands_of_chunks(self):
        legs = [self.make_file(f"{i}.img", 16 * MIB) for i in range(2)]
        server = self.serve(f"table=0 65536 striped 2 8 {legs[0]} 0 {legs[1]} 0")
        client = self.connect(server)
        data = pattern(31 * MIB, 7)
        client.pwrite(data, SECTOR)
        self.assertEqual(client.pread(31 * MIB, SECTOR), data)
        layout = Striped(8 * SECTOR, 32 * MIB, (legs[0], 0), (legs[1], 0))
        self.assertEqual(gather(layout, SECTOR, 31 * MIB), data)

    def test_a_device_on_a_device_on_memory(self):
        server = self.serve(f"device=low:0 {sectors(4 * MIB)} linear mem:4M 0",
                            f"device=high:0 {sectors(2 * MIB)} linear dev:low {sectors(MIB)}")
        low, high = self.connect(server, "low"), self.connect(server, "high")
        data = pattern(MIB, 3)
        high.pwrite(data, MIB)
        self.assertEqual(low.pread(MIB, 2 * MIB), data)

    def test_many_connections_at_once(self):
        disks = [self.make_file(f"{i}.img", 4 * MIB) for i in range(2)]
        server = self.serve(f"table=0 16384 striped 2 16 {disks[0]} 0 {disks[1]} 0")
        clients = [self.connect(server) for _ in range(8)]
        self.assertTrue(all(c.can_multi_conn() for c in clients))
        rng = random.Random(5)
        expected = bytearray(8 * MIB)
        for at in range(0, 8 * MIB, 64 * 1024):
            data = rng.randbytes(64 * 1024)
            rng.choice(clients).pwrite(data, at)
            expected[at:at + len(data)] = data
        for client in clients:
            self.assertEqual(read_all(client, 8 * MIB), expected)


class Holes(harness.Case):
    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", 8 * MIB, seed=1)
        self.content = bytearray(self.read_file(self.disk))

    def blocks(self):
        return os.stat(self.disk).st_blocks

    def linear(self):
        return self.connect(self.serve(f"table=0 16384 linear {self.disk} 0"))

    def test_trim_makes_holes(self):
        client = self.linear()
        before = self.blocks()
        client.trim(4 * MIB, 2 * MIB)
        client.flush()
        self.assertLessEqual(self.blocks(), before - sectors(4 * MIB) + 16)
        self.content[2 * MIB:6 * MIB] = bytes(4 * MIB)
        self.assertEqual(read_all(client, 8 * MIB), self.content)

    def test_zero_may_trim_or_keeps_its_blocks(self):
        client = self.linear()
        before = self.blocks()
        client.zero(MIB, 0, client_flag("CMD_FLAG_NO_HOLE"))
        client.flush()
        self.assertGreaterEqual(self.blocks(), before)
        client.zero(MIB, MIB)
        client.flush()
        self.assertLessEqual(self.blocks(), before - sectors(MIB) + 16)
        self.content[:2 * MIB] = bytes(2 * MIB)
        self.assertEqual(read_all(client, 8 * MIB), self.content)

    def test_zero_of_part_of_a_page(self):
        client = self.linear()
        client.zero(3 * SECTOR, 5 * SECTOR)
        self.content[5 * SECTOR:8 * SECTOR] = bytes(3 * SECTOR)
        self.assertEqual(read_all(client, 8 * MIB), self.content)

    def test_fast_zero_is_fast_or_declined_and_declining_changes_nothing(self):
        client = self.linear()
        self.assertTrue(client.can_fast_zero())
        try:
            client.zero(MIB, 0, client_flag("CMD_FLAG_FAST_ZERO"))
            self.content[:MIB] = bytes(MIB)
        except harness.nbd.Error as error:
            self.assertEqual(error.errno, "ENOTSUP")
        self.assertEqual(read_all(client, 8 * MIB), self.content)

    def test_trim_and_zero_across_stripes(self):
        legs = [self.make_file(f"{i}.img", 2 * MIB, seed=i) for i in range(3)]
        chunk, size = 8, 3 * 8 * 400
        table = f"0 {size} striped 3 {chunk} " + " ".join(f"{leg} 0" for leg in legs)
        layout = Striped(chunk * SECTOR, size * SECTOR, *((leg, 0) for leg in legs))
        client = self.connect(self.serve(f"table={table}"))
        expected = bytearray(gather(layout))
        rng = random.Random(11)
        for _ in range(60):
            length = rng.randrange(1, 200) * SECTOR
            offset = rng.randrange(0, layout.size - length) // SECTOR * SECTOR
            if rng.random() < 0.5:
                client.zero(length, offset)
            else:
                client.trim(length, offset)  # files read as zeroes where they were trimmed
            expected[offset:offset + length] = bytes(length)
        self.assertEqual(read_all(client, layout.size), expected)
        self.assertEqual(gather(layout), expected)
        for leg in legs:
            self.assertEqual(self.read_file(leg, 400 * 8 * SECTOR), pattern(2 * MIB, legs.index(leg))[
                400 * 8 * SECTOR:], "beyond the device's part nothing changes")

    def test_extents_of_linear_are_the_files_own(self):
        disk = self.make_file("sparse.img", 8 * MIB)
        with open(disk, "r+b") as file:
            file.seek(2 * MIB)
            file.write(pattern(MIB, 1))
        client = self.connect(self.serve(f"table=0 12288 linear {disk} 2048"))
        self.assertEqual(extents(client),
                         [(MIB, HOLE_ZERO), (MIB, DATA), (4 * MIB, HOLE_ZERO)])

    def test_extents_of_striped_are_those_of_its_legs(self):
        a, b = self.make_file("a", 4 * MIB, seed=1), self.make_file("b", 4 * MIB)
        client = self.connect(self.serve(f"table=0 8192 striped 2 256 {a} 0 {b} 0"))
        chunk = 256 * SECTOR
        self.assertEqual(extents(client), [(chunk, DATA), (chunk, HOLE_ZERO)] * 16)

    def test_extents_of_zero_and_error(self):
        client = self.connect(self.serve(
            f"table=0 2048 zero\n2048 2048 linear {self.disk} 0\n4096 2048 error"))
        self.assertEqual(extents(client, 0, 2 * MIB), [(MIB, HOLE_ZERO), (MIB, DATA)])
        self.assert_errno("EIO", client.block_status, MIB, 2 * MIB, lambda *_: 0)

    def test_nbdinfo_map_and_nbdcopy_see_the_holes(self):
        disk = self.make_file("sparse.img", 64 * MIB)
        with open(disk, "r+b") as file:
            file.seek(32 * MIB)
            file.write(pattern(MIB, 1))
        server = self.serve(f"table=0 {sectors(64 * MIB)} linear {disk} 0")
        listing = self.command("nbdinfo", "--map", server.uri()).stdout.split("\n")
        self.assertEqual([line.split()[:3] for line in listing if line],
                         [["0", str(32 * MIB), "3"], [str(32 * MIB), str(MIB), "0"],
                          [str(33 * MIB), str(31 * MIB), "3"]])
        copy = self.path("copy.img")
        self.command("nbdcopy", server.uri(), copy)
        self.assertEqual(self.read_file(copy), self.read_file(disk))
        self.assertLess(os.stat(copy).st_blocks, sectors(4 * MIB))


class ZeroAndCache(harness.Case):
    def test_zero_target_reads_zeroes_and_takes_writes(self):
        client = self.connect(self.serve("table=0 2048 zero"))
        client.pwrite(pattern(4096, 1), 0)
        client.trim(MIB, 0)
        client.zero(MIB, 0)
        client.flush()
        self.assertEqual(client.pread(MIB, 0), bytes(MIB))

    def test_cache_is_taken_everywhere(self):
        disk = self.make_file("a.img", MIB, seed=1)
        client = self.connect(self.serve(f"table=0 2048 linear {disk} 0\n2048 2048 zero"))
        self.assertTrue(client.can_cache())
        client.cache(2 * MIB, 0)
        self.assertEqual(client.pread(MIB, 0), pattern(MIB, 1))


@unittest.skipIf(os.environ.get("BLOCKLOOM_SANITIZER"),
                 "strace and the sanitizer's runtime are in each other's way")
class Durable(harness.Case):
    """strace in front of the server: what it asked the kernel for."""

    def traced(self, table):
        trace = self.path("trace")
        server = self.serve(
            f"table={table}", wrapper=(
                "strace", "-f", "-qq", "-e", "trace=fdatasync,fsync,pwritev2,fallocate", "-o", trace))
        return server, trace

    def lines_after(self, server, trace, client):
        self.hang_up(client)
        # strace passes the signal on and ends with its child.
        children = self.command("pgrep", "-P", str(server.pid)).stdout.split()
        self.command("kill", *children)
        server.wait_end()
        return self.read_file(trace).decode().splitlines()

    def test_flush_syncs_every_leg_whoever_wrote(self):
        a, b = self.make_file("a.img", MIB), self.make_file("b.img", MIB)
        server, trace = self.traced(f"0 4096 striped 2 8 {a} 0 {b} 0")
        writer, flusher = self.connect(server), self.connect(server)
        writer.pwrite(pattern(8192, 1), 0)
        flusher.flush()
        self.hang_up(writer)
        lines = self.lines_after(server, trace, flusher)
        self.assertEqual(sum("sync(" in line for line in lines), 2, lines)

    def test_fua_is_native(self):
        disk = self.make_file("a.img", MIB)
        server, trace = self.traced(f"0 2048 linear {disk} 0")
        client = self.connect(server)
        self.assertTrue(client.can_fua())
        client.pwrite(pattern(4096, 1), 0)
        client.pwrite(pattern(4096, 2), 4096, client_flag("CMD_FLAG_FUA"))
        lines = self.lines_after(server, trace, client)
        durable = [line for line in lines if "RWF_DSYNC" in line or "sync(" in line]
        self.assertEqual(len(durable), 1, lines)
        self.assertEqual(self.read_file(disk, 0, 8192), pattern(4096, 1) + pattern(4096, 2))

    def test_fua_of_zero_and_trim(self):
        disk = self.make_file("a.img", MIB, seed=1)
        server, trace = self.traced(f"0 2048 linear {disk} 0")
        client = self.connect(server)
        client.zero(4096, 0, client_flag("CMD_FLAG_FUA"))
        client.trim(4096, 8192, client_flag("CMD_FLAG_FUA"))
        lines = self.lines_after(server, trace, client)
        order = ["sync" if "sync(" in line or "RWF_DSYNC" in line else "punch" for line in lines
                 if "sync(" in line or "fallocate(" in line or "RWF_DSYNC" in line]
        self.assertEqual(order.count("sync"), 2, lines)
        self.assertEqual(order[-1], "sync", lines)


def client_flag(name):
    return getattr(harness.nbd, name)


if __name__ == "__main__":
    harness.unittest.main()
