"""What a client notices of suspensions and swaps: that its request took longer, and no more."""

import random
import threading
import time

import harness
from harness import MIB, SECTOR, pattern, sectors
from layout import Striped, gather


class Waiting(harness.Case):
    """Requests that come while a device is suspended."""

    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", MIB, seed=1)
        self.server = self.serve(f"table=0 2048 linear {self.disk} 0", control=True)
        self.client = self.connect(self.server)

    def queued(self):
        return self.server.rpc("info", {"device": "default"})["devices"][0]["queued"]

    def test_wait_for_the_resume_and_then_are_done(self):
        self.server.rpc("suspend", {"device": "default"})
        buffers = [harness.nbd.Buffer(4096) for _ in range(16)]
        reads = [self.client.aio_pread(b, i * 4096) for i, b in enumerate(buffers)]
        while self.queued() < 16:
            self.client.poll(10)
        self.assertFalse(any(self.client.aio_command_completed(c) for c in reads))
        self.server.rpc("resume", {"device": "default"})
        for i, (cookie, buffer) in enumerate(zip(reads, buffers)):
            while not self.client.aio_command_completed(cookie):
                self.assertEqual(self.client.poll(60000), 1)
            self.assertEqual(buffer.to_bytearray(), pattern(MIB, 1)[i * 4096:(i + 1) * 4096])

    def test_see_the_table_that_was_swapped_in(self):
        other = self.make_file("b.img", MIB, seed=2)
        self.server.rpc("suspend", {"device": "default"})
        buffer = harness.nbd.Buffer(4096)
        read = self.client.aio_pread(buffer, 0)
        while self.queued() < 1:
            self.client.poll(10)
        self.server.rpc("load", {"device": "default", "table": f"0 2048 linear {other} 0"})
        self.server.rpc("resume", {"device": "default"})
        while not self.client.aio_command_completed(read):
            self.assertEqual(self.client.poll(60000), 1)
        self.assertEqual(buffer.to_bytearray(), pattern(MIB, 2)[:4096])

    def test_end_with_the_device_when_it_is_removed_by_force(self):
        self.server.rpc("suspend", {"device": "default"})
        read = self.client.aio_pread(harness.nbd.Buffer(4096), 0)
        while self.queued() < 1:
            self.client.poll(10)
        self.server.rpc("remove", {"device": "default", "force": True})
        with self.assertRaises(harness.nbd.Error) as caught:
            while not self.client.aio_command_completed(read):
                self.assertEqual(self.client.poll(60000), 1)
        self.assertEqual(caught.exception.errno, "EIO")
        self.assert_errno("EIO", self.client.pread, 4096, 0)

    def test_an_open_device_is_not_removed(self):
        self.client.pread(SECTOR, 0)
        with self.assertRaises(harness.RpcError):
            self.server.rpc("remove", {"device": "default"})
        self.assertEqual(self.client.pread(SECTOR, 0), pattern(MIB, 1)[:SECTOR])

    def test_a_client_that_dies_while_it_waits_leaves_the_device_closed(self):
        self.server.rpc("suspend", {"device": "default"})
        dying = harness.nbd.NBD()
        dying.connect_unix(self.server.socket)
        dying.aio_pread(harness.nbd.Buffer(4096), 0)
        while self.queued() < 1:
            dying.poll(10)
        del dying
        self.server.rpc("resume", {"device": "default"})
        self.hang_up(self.client)
        harness.wait_until(
            lambda: self.server.rpc("info", {"device": "default"})["devices"][0]["open_count"] == 0,
            "the device is closed")


class UnderLoad(harness.Case):
    def test_swaps_between_two_layouts_of_the_same_bytes(self):
        size, chunk = 4 * MIB, 64 * SECTOR
        a, b = self.make_file("a.img", size // 2), self.make_file("b.img", size // 2)
        striped = f"0 {sectors(size)} striped 2 64 {a} 0 {b} 0"
        linear = "\n".join(f"{i * 64} 64 linear {b if i % 2 else a} {i // 2 * 64}"
                           for i in range(size // chunk))
        server = self.serve(f"table={striped}", control=True)
        stop, wrong, done = threading.Event(), [], [0] * 4

        def work(number):
            client, rng = harness.nbd.NBD(), random.Random(number)
            client.connect_unix(server.socket)
            start, mine = number * MIB, bytearray(MIB)
            while not stop.is_set():
                length = rng.randrange(1, 100) * SECTOR
                at = rng.randrange(0, (MIB - length) // SECTOR) * SECTOR
                if rng.random() < 0.5:
                    mine[at:at + length] = data = rng.randbytes(length)
                    client.pwrite(data, start + at)
                elif client.pread(length, start + at) != mine[at:at + length]:
                    wrong.append(start + at)
                done[number] += 1
            client.shutdown()
            final[number] = bytes(mine)

        final = [b""] * 4
        workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for worker in workers:
            worker.start()
        control = harness.Control(server.control)
        for i in range(60):
            control.rpc("load", {"device": "default", "table": linear if i % 2 == 0 else striped})
            self.assertTrue(control.rpc("resume", {"device": "default"})["swapped"])
        control.close()
        time.sleep(0.1)
        stop.set()
        for worker in workers:
            worker.join(60)
            self.assertFalse(worker.is_alive(), "a client waits for ever")
        self.assertEqual(wrong, [])
        self.assertTrue(all(count > 10 for count in done), done)
        self.assertEqual(gather(Striped(chunk, size, (a, 0), (b, 0))), b"".join(final))


if __name__ == "__main__":
    harness.unittest.main()
