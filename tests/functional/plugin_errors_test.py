"""What goes wrong while serving: a clear error, and everything else goes on."""

import os

import harness
from harness import MIB, SECTOR, pattern


class BadRequests(harness.Case):
    def setUp(self):
        super().setUp()
        disk = self.make_file("a.img", MIB, seed=1)
        self.server = self.serve(f"table=0 2048 linear {disk} 0")
        self.client = self.connect(self.server, strict=False)

    def no_extent(self, *answer):
        self.fail(f"block_status was answered: {answer}")

    def goes_on(self):
        self.assertEqual(self.client.pread(SECTOR, 0), pattern(MIB, 1)[:SECTOR])

    def test_unaligned_requests_are_invalid(self):
        for call, arguments in (
                ("pread", (SECTOR, 1)), ("pread", (1, 0)), ("pread", (SECTOR + 1, SECTOR)),
                ("pwrite", (bytes(SECTOR), 511)), ("pwrite", (bytes(10), 0)),
                ("trim", (SECTOR, 7)), ("trim", (100, 0)), ("zero", (SECTOR, 7)),
                ("zero", (100, 0)), ("cache", (SECTOR, 7)), ("cache", (100, 0)),
                ("block_status", (SECTOR, 7, self.no_extent)),
                ("block_status", (100, 0, self.no_extent))):
            with self.subTest(call=call, at=arguments[:2]):
                self.assert_errno("EINVAL", getattr(self.client, call), *arguments)
                self.goes_on()

    def test_requests_beyond_the_end(self):
        for call, arguments, errno in (
                ("pread", (SECTOR, MIB), "EINVAL"), ("pread", (2 * SECTOR, MIB - SECTOR), "EINVAL"),
                ("pwrite", (bytes(SECTOR), MIB), "ENOSPC"),
                ("pwrite", (bytes(2 * SECTOR), MIB - SECTOR), "ENOSPC"),
                ("zero", (SECTOR, MIB), "ENOSPC"), ("trim", (SECTOR, MIB), "EINVAL"),
                ("cache", (SECTOR, MIB), "EINVAL"),
                ("cache", (2 * SECTOR, MIB - SECTOR), "EINVAL"),
                ("block_status", (SECTOR, MIB, self.no_extent), "EINVAL"),
                ("block_status", (2 * SECTOR, MIB - SECTOR, self.no_extent), "EINVAL"),
                ("pread", (SECTOR, (1 << 63) - SECTOR), "EINVAL"),
                ("pwrite", (bytes(SECTOR), (1 << 64) - SECTOR), "ENOSPC")):
            with self.subTest(call=call, at=arguments[1]):
                self.assert_errno(errno, getattr(self.client, call), *arguments)
                self.goes_on()

    def test_the_largest_request(self):
        client = self.connect(self.serve("table=0 1048576 zero"))
        self.assertEqual(client.pread(64 * MIB, 0), bytes(64 * MIB))
        client.zero(512 * MIB, 0)


class BrokenLegs(harness.Case):
    def test_error_target_fails_everything_and_its_neighbours_serve(self):
        client = self.connect(self.serve("table=0 8 zero\n8 8 error\n16 8 zero"))
        bad = 8 * SECTOR
        for call, arguments in (("pread", (SECTOR, bad)), ("pwrite", (bytes(SECTOR), bad)),
                                ("zero", (SECTOR, bad)), ("pread", (16 * SECTOR, 0)),
                                ("pwrite", (bytes(24 * SECTOR), 0))):
            with self.subTest(call=call):
                self.assert_errno("EIO", getattr(client, call), *arguments)
        self.assertEqual(client.pread(bad, 0), bytes(bad))
        self.assertEqual(client.pread(bad, 2 * bad), bytes(bad))
        client.flush()

    def test_a_file_truncated_while_serving(self):
        a, b = self.make_file("a.img", MIB, seed=1), self.make_file("b.img", MIB, seed=2)
        server = self.serve(f"device=a:0 2048 linear {a} 0", f"device=b:0 2048 linear {b} 0")
        client, other = self.connect(server, "a"), self.connect(server, "b")
        os.truncate(a, MIB // 2)
        self.assertEqual(client.pread(SECTOR, 0), pattern(MIB, 1)[:SECTOR])
        self.assert_errno("EIO", client.pread, 4096, MIB - 4096)
        self.assert_errno("EIO", client.pread, MIB, 0)
        self.assertEqual(other.pread(MIB, 0), pattern(MIB, 2))
        self.assertIn("device 'a': read of 4096 bytes", server.log())
        with open(a, "r+b") as file:
            file.truncate(MIB)
        self.assertEqual(client.pread(SECTOR, MIB - SECTOR), bytes(SECTOR))

    def test_a_file_deleted_while_serving_is_served_on(self):
        disk = self.make_file("a.img", MIB, seed=1)
        client = self.connect(self.serve(f"table=0 2048 linear {disk} 0"))
        os.unlink(disk)
        self.assertEqual(client.pread(MIB, 0), pattern(MIB, 1))
        client.pwrite(bytes(SECTOR), 0)
        client.flush()

    def test_a_full_disk_is_told_as_such(self):
        disk = self.make_file("a.img", MIB)
        client = self.connect(self.serve(
            f"table=0 2048 linear fault:[write=error:ENOSPC]:{disk} 0"))
        self.assert_errno("ENOSPC", client.pwrite, bytes(SECTOR), 0)
        self.assertEqual(client.pread(SECTOR, 0), bytes(SECTOR))

    def test_a_short_read_is_an_error_and_not_half_the_truth(self):
        disk = self.make_file("a.img", MIB, seed=1)
        client = self.connect(self.serve(f"table=0 2048 linear fault:[read=short,x1]:{disk} 0"))
        self.assert_errno("EIO", client.pread, 8192, 0)
        self.assertEqual(client.pread(8192, 0), pattern(MIB, 1)[:8192])

    def test_a_flood_of_errors_is_a_few_lines_in_the_log(self):
        server = self.serve("table=0 8 error")
        client = self.connect(server)
        for _ in range(2000):
            self.assert_errno("EIO", client.pread, SECTOR, 0)
        lines = [line for line in server.log().splitlines() if "failed: io" in line]
        self.assertGreater(len(lines), 0)
        self.assertLess(len(lines), 500)


class Clients(harness.Case):
    def test_a_client_killed_with_requests_in_flight(self):
        disk = self.make_file("a.img", 8 * MIB)
        server = self.serve(f"table=0 16384 linear fault:[any=delay:20ms]:{disk} 0", control=True)
        killer = self.spawn(
            "fio", "--name=x", "--thread", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randrw",
            "--bs=4k", "--iodepth=64", "--time_based", "--runtime=60", "--size=8m",
            stdout=harness.subprocess.DEVNULL, stderr=harness.subprocess.DEVNULL)
        harness.wait_until(lambda: self.info(server)["open_count"] > 0, "fio has connected")
        harness.time.sleep(0.3)
        killer.kill()
        killer.wait()
        harness.wait_until(lambda: self.info(server)["open_count"] == 0, "the device is closed")
        client = self.connect(server)
        client.pwrite(pattern(4096, 1), 0)
        self.assertEqual(client.pread(4096, 0), pattern(4096, 1))

    @staticmethod
    def info(server):
        found = server.rpc("info", {"device": "default"})
        found = found.get("devices", found) if isinstance(found, dict) else found
        return found[0] if isinstance(found, list) else found

    def test_a_thousand_connections_leave_nothing_behind(self):
        server = self.serve("table=0 64 zero", control=True)

        def visit():
            client = harness.nbd.NBD()
            client.connect_unix(server.socket)
            client.pread(SECTOR, 0)
            client.shutdown()

        for _ in range(20):
            visit()
        harness.wait_until(lambda: server.threads() < 16, "the workers have ended")
        files, threads = server.descriptors(), server.threads()
        for _ in range(1000):
            visit()
        harness.wait_until(lambda: server.threads() <= threads, "the workers have ended")
        harness.wait_until(lambda: server.descriptors() <= files + 1, "the descriptors are closed")
        self.assertEqual(self.info(server)["open_count"], 0)

    def test_clients_that_die_take_nobody_with_them(self):
        """nbdkit 1.32.5 by itself aborts here, every other time."""
        server = self.serve("table=0 131072 zero")
        other = self.connect(server)
        for how in ("unix", "tcp"):
            for i in range(15):
                child = os.fork()
                if child == 0:
                    client = harness.nbd.NBD()
                    client.connect_uri(server.uri() if how == "unix" else server.tcp_uri())
                    for at in range(64):
                        client.aio_pread(harness.nbd.Buffer(1 << 16), at << 16)
                        if i % 3 == 1:
                            client.aio_pwrite(harness.nbd.Buffer(1 << 16), at << 16)
                    harness.time.sleep(0.002 * (i % 5))
                    os.kill(os.getpid(), 9)
                os.waitpid(child, 0)
                try:
                    self.assertEqual(other.pread(SECTOR, 0), bytes(SECTOR))
                except harness.nbd.Error as error:
                    self.fail(f"after {how} client {i}: {error}\n{server.log()}")
        self.hang_up(other)
        harness.wait_until(lambda: server.threads() < 16, "the workers have ended")
        self.assertTrue(server.alive(), server.log())
        self.assertEqual(server.terminate(), 0)

    def test_connections_that_say_nothing_or_rubbish(self):
        server = self.serve("table=0 64 zero")
        silent = [harness.socket.socket(harness.socket.AF_UNIX) for _ in range(20)]
        for client in silent:
            client.connect(server.socket)
            self.addCleanup(client.close)
        for client in silent[:10]:
            client.sendall(os.urandom(256))
        self.assertEqual(self.connect(server).pread(SECTOR, 0), bytes(SECTOR))


if __name__ == "__main__":
    harness.unittest.main()
