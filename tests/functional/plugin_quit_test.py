"""SIGTERM, whatever is going on: the server ends within seconds, with exit code 0, and what was
acknowledged is in the files."""

import os
import signal
import threading
import time

import harness
from harness import MIB, SECTOR, pattern

IN_TIME = 20


class Quit(harness.Case):
    def flood(self, client, count=64):
        """Writes that are sent and not waited for. Gives back [(cookie, offset, data)]."""
        sent = []
        for i in range(count):
            data = pattern(4096, i)
            buffer = harness.nbd.Buffer.from_bytearray(bytearray(data))
            sent.append((client.aio_pwrite(buffer, i * 4096), i * 4096, data))
        return sent

    def collect(self, client, sent, seconds=IN_TIME):
        """(acknowledged, refused) once the server has said its last word."""
        good, bad, open_ = [], [], {cookie: (offset, data) for cookie, offset, data in sent}
        deadline = time.monotonic() + seconds
        while open_ and time.monotonic() < deadline:
            try:
                client.poll(100)
            except harness.nbd.Error:
                pass
            for cookie in list(open_):
                try:
                    if client.aio_command_completed(cookie):
                        good.append(open_.pop(cookie))
                except harness.nbd.Error:
                    bad.append(open_.pop(cookie))
            if client.aio_is_dead() or client.aio_is_closed():
                break
        return good, bad + list(open_.values())

    def check_files(self, disk, good):
        for offset, data in good:
            self.assertEqual(self.read_file(disk, offset, len(data)), data,
                             f"acknowledged, and lost, at {offset}")

    def test_with_idle_clients(self):
        server = self.serve("table=0 64 zero")
        clients = [self.connect(server) for _ in range(5)]
        clients.append(self.connect(server, uri=server.tcp_uri()))
        clients[0].pread(SECTOR, 0)
        self.assertEqual(server.terminate(IN_TIME), 0)
        self.assertNotIn("error", server.log())

    def test_with_clients_that_never_finished_the_handshake(self):
        server = self.serve("table=0 64 zero")
        for _ in range(3):
            client = harness.socket.socket(harness.socket.AF_UNIX)
            client.connect(server.socket)
            self.addCleanup(client.close)
        self.assertEqual(server.terminate(IN_TIME), 0)

    def test_with_a_client_that_does_not_take_its_answers(self):
        server = self.serve("table=0 131072 zero")
        client = self.connect(server)
        # More than a socket's buffer holds; nobody calls poll(), so nobody reads.
        for i in range(8):
            client.aio_pread(harness.nbd.Buffer(8 * MIB), i * 8 * MIB)
        time.sleep(0.2)
        self.assertEqual(server.terminate(IN_TIME), 0)

    def test_by_interrupt_too(self):
        server = self.serve("table=0 64 zero")
        self.connect(server).pread(SECTOR, 0)
        server.signal(signal.SIGINT)
        self.assertEqual(server.wait_end(IN_TIME), 0)

    def test_during_a_suspend(self):
        disk = self.make_file("a.img", MIB)
        server = self.serve(f"table=0 2048 linear {disk} 0", control=True)
        client = self.connect(server)
        client.pwrite(pattern(4096, 99), MIB - 4096)
        server.rpc("suspend", {"device": "default"})
        sent = self.flood(client)
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        good, bad = self.collect(client, sent)
        self.assertEqual(server.wait_end(IN_TIME), 0)
        self.assertEqual(good, [], "nothing may be acknowledged while suspended")
        self.assertEqual(len(bad), 64)
        self.check_files(disk, [(MIB - 4096, pattern(4096, 99))])
        self.assertEqual(self.read_file(disk, 0, 64 * 4096), bytes(64 * 4096))

    def test_waiting_requests_are_told_of_the_shutdown(self):
        server = self.serve("table=0 64 zero", control=True)
        client = self.connect(server)
        server.rpc("suspend", {"device": "default"})
        cookie = client.aio_pread(harness.nbd.Buffer(SECTOR), 0)
        client.poll(100)
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        with self.assertRaises(harness.nbd.Error) as caught:
            while not client.aio_command_completed(cookie):
                if client.poll(IN_TIME * 1000) == 0:
                    self.fail("no answer")
        self.assertEqual(caught.exception.errno, "ESHUTDOWN")
        self.assertEqual(server.wait_end(IN_TIME), 0)

    def test_during_a_delay(self):
        disk = self.make_file("a.img", MIB)
        server = self.serve(f"table=0 2048 delay {disk} 0 60000")
        client = self.connect(server)
        sent = self.flood(client, 32)
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        good, _bad = self.collect(client, sent)
        self.assertEqual(server.wait_end(IN_TIME), 0)
        self.check_files(disk, good)

    def test_with_a_leg_that_hangs(self):
        disk = self.make_file("a.img", MIB)
        server = self.serve(f"table=0 2048 linear fault:[write=hang]:{disk} 0")
        clients = [self.connect(server) for _ in range(3)]
        sent = [self.flood(client, 20) for client in clients]
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        for client, mine in zip(clients, sent):
            good, _bad = self.collect(client, mine)
            self.assertEqual(good, [])
        self.assertEqual(server.wait_end(IN_TIME), 0)

    def test_during_a_suspend_that_waits_for_a_leg(self):
        disk = self.make_file("a.img", MIB)
        server = self.serve(f"table=0 2048 linear fault:[write=hang]:{disk} 0", control=True)
        client = self.connect(server)
        self.flood(client, 4)
        client.poll(100)

        def suspend():
            try:
                server.rpc("suspend", {"device": "default", "timeout_s": 300})
            except (harness.RpcError, OSError):
                pass
        waiting = threading.Thread(target=suspend)
        waiting.start()
        time.sleep(0.5)
        self.assertEqual(server.terminate(IN_TIME), 0)
        waiting.join(IN_TIME)
        self.assertFalse(waiting.is_alive(), "the control call was not answered")

    def test_under_load_what_was_acknowledged_is_in_the_file(self):
        disk = self.make_file("a.img", 64 * MIB)
        server = self.serve(f"table=0 131072 linear {disk} 0")
        clients = [self.connect(server) for _ in range(4)]
        acknowledged, under_way = [{} for _ in clients], [None for _ in clients]

        def write(number):
            client, mine, i = clients[number], acknowledged[number], 0
            try:
                while True:
                    offset = (number * 4096 + i % 4096) * 4096
                    data = pattern(4096, f"{number} {i}")
                    under_way[number] = offset
                    client.pwrite(data, offset)
                    mine[offset] = data
                    i += 1
            except harness.nbd.Error:
                pass
        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for writer in writers:
            writer.start()
        harness.wait_until(lambda: all(len(a) > 50 for a in acknowledged), "writes flow")
        self.assertEqual(server.terminate(IN_TIME), 0)
        for writer in writers:
            writer.join(IN_TIME)
            self.assertFalse(writer.is_alive())
        for mine, last in zip(acknowledged, under_way):
            mine.pop(last, None)  # may have been overwritten by the one without an answer
            self.check_files(disk, mine.items())

    def test_with_fio_attached(self):
        disk = self.make_file("a.img", 64 * MIB)
        server = self.serve(f"table=0 131072 linear {disk} 0")
        fio = self.spawn(
            "fio", "--name=x", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite",
            "--bs=64k", "--iodepth=32", "--time_based", "--runtime=120", "--size=64m",
            stdout=harness.subprocess.DEVNULL, stderr=harness.subprocess.DEVNULL)
        harness.wait_until(lambda: os.stat(disk).st_blocks > 1000, "fio writes")
        self.assertEqual(server.terminate(IN_TIME), 0)
        fio.wait(IN_TIME)

    def test_at_once_after_the_start(self):
        for _ in range(10):
            server = self.serve("table=0 64 zero", ready=False)
            time.sleep(0.02)
            self.assertIn(server.terminate(IN_TIME), (0, -signal.SIGTERM))


if __name__ == "__main__":
    harness.unittest.main()
