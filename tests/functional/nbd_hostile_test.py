"""Legs over servers that lie or answer garbage: a clear error, within its bound, and nothing else
happens to the server."""

import os
import random
import struct
import time
import unittest

import harness
import hostile_nbd
import legs
from harness import SECTOR, extents, nbd
from hostile_nbd import Honest

SECTORS = Honest.size // SECTOR
ROUNDS = int(os.environ.get("HOSTILE_ROUNDS", "60"))


class HostileCase(harness.Case):
    def hostile(self, behave, tcp=False, **parameters):
        path = None if tcp else legs.place(self)
        server = hostile_nbd.Server(self, path, behave)
        parameters = {"timeout_ms": 1000, "connect_timeout_ms": 500, **parameters}
        if not tcp:
            parameters["socket"] = path
        query = "&".join(f"{k}={v}" for k, v in parameters.items())
        place = f"nbd://127.0.0.1:{server.port}/x" if tcp else "nbd+unix:///x"
        return server, f"{place}?{query}"

    def over(self, behave, **parameters):
        _, uri = self.hostile(behave, **parameters)
        return self.serve(f"table=0 {SECTORS} linear {uri} 0")

    def lies(self, **members):
        """An Honest one with other methods."""
        return type("Liar", (Honest,), members)

    def ended(self, client, cookie, buffer):
        """Until the command ends, without keeping this process from serving the leg."""
        deadline = time.monotonic() + harness.PATIENCE
        while time.monotonic() < deadline:
            client.poll(5)
            try:
                if client.aio_command_completed(cookie):
                    return buffer.to_bytearray() if buffer else b""
            except nbd.Error as error:
                return error.errno
            time.sleep(0.005)
        raise AssertionError("the request did not end")

    def read(self, client, length, offset):
        buffer = nbd.Buffer(length)
        return self.ended(client, client.aio_pread(buffer, offset), buffer)

    def write(self, client, data, offset):
        buffer = nbd.Buffer.from_bytearray(bytearray(data))
        return self.ended(client, client.aio_pwrite(buffer, offset), None)


class Lies(HostileCase):
    def test_the_honest_one_is_fine(self):
        client = self.connect(self.over(Honest))
        self.assertEqual(self.write(client, b"\1" * 4096, 4096), b"")
        # Another connection, another disk: this one is asked again.
        self.assertEqual(self.read(client, 4096, 4096), b"\1" * 4096)

    def refused(self, **members):
        _, uri = self.hostile(self.lies(**members))
        return self.refuse(f"table=0 8 linear {uri} 0")

    def test_sizes(self):
        for size, said in ((0, "expected one sector or more"), (511, "expected one sector or more"),
                           (1 << 63, "which cannot be"), ((1 << 64) - 1, "which cannot be")):
            with self.subTest(size=size):
                class Sized(Honest):
                    def export_info(self, size=size):
                        return struct.pack(">HQH", 0, size, hostile_nbd.FLAGS)
                _, uri = self.hostile(Sized)
                text = self.refuse(f"table=0 8 linear {uri} 0")
                self.assertIn("leg 'nbd+unix:///x", text)
                self.assertIn(said, text)

    def test_block_sizes(self):
        def option(sizes):
            def reply(self, option, data):
                if option != 7:
                    return Honest.option(self, option, data)
                return (self.option_reply(7, 3, self.export_info())
                        + self.option_reply(7, 3, struct.pack(">HIII", 3, *sizes))
                        + self.option_reply(7, 1))
            return reply
        for sizes in ((0, 0, 0), (3, 5, 7), (1 << 31, 1 << 31, 1 << 31), (512, 1, 2),
                      (65536, 65536, 65536), (1, 1, 1), (0xffffffff,) * 3):
            with self.subTest(sizes=sizes):
                _, uri = self.hostile(self.lies(option=option(sizes)))
                server = self.serve(f"table=0 {SECTORS} linear {uri} 0", ready=False)
                try:
                    server.wait_ready(10)
                except AssertionError:
                    self.assertIn("leg 'nbd+unix:///x", server.log())
                    continue
                client = self.connect(server)
                self.assertIn(self.read(client, 512, 512), (bytes(512), "EIO"))
                server.stop()

    def test_a_handshake_without_end_is_bounded_by_what_it_says_and_by_time(self):
        def endless(at, reply, pause=0.0):
            """Answers one option with the same reply for ever, or byte by byte."""
            def option(self, number, data):
                if number != at:
                    return Honest.option(self, number, data)
                one = reply(self)
                pieces = [bytes([b]) for b in one] if pause else [one * (1 + (1 << 18) // len(one))]
                while True:
                    for piece in pieces:
                        self.client.sendall(piece)
                        time.sleep(pause)
            return self.lies(option=option)

        infos = lambda s: s.option_reply(7, 3, struct.pack(">H", 99) + bytes(40))
        contexts = lambda s: s.option_reply(10, 4, struct.pack(">I", 1) + b"x:" + bytes(b"y") * 99)
        large = lambda s: s.option_reply(7, 3, struct.pack(">H", 99) + bytes(1 << 20))
        for name, behave, tcp, said in (
                ("infos", endless(7, infos), False, "more than 2000 steps"),
                ("contexts", endless(10, contexts), False, "more than 2000 steps"),
                ("bytes", endless(7, large), True, "more than 1048576 bytes"),
                ("trickle", endless(7, infos, 0.02), False, "it does not answer")):
            with self.subTest(name):
                server, uri = self.hostile(behave, tcp, connect_timeout_ms=2000)
                text = self.refuse(f"table=0 8 linear {uri} 0")
                self.assertIn(said, text)
                self.assertIn("leg 'nbd", text)
                server.close()

    def test_an_answer_to_nobody(self):
        client = self.connect(self.over(self.lies(
            request=lambda self, kind, cookie, *_: self.simple(cookie + 1))))
        self.assertEqual(self.write(client, bytes(512), 0), "EIO")

    def test_the_same_answer_twice(self):
        client = self.connect(self.over(self.lies(
            request=lambda self, *a: Honest.request(self, *a) * 2)))
        for _ in range(3):
            self.assertIn(self.write(client, bytes(512), 0), (b"", "EIO"))

    def test_a_read_s_answer_that_is_short_or_elsewhere_or_too_long(self):
        def spoil(change):
            def request(self, kind, cookie, offset, length, data):
                if kind != 0:
                    return Honest.request(self, kind, cookie, offset, length, data)
                return change(self, cookie, offset, length)
            return request
        changes = {
            "short": lambda s, c, o, n: s.chunk(1, 1, c, struct.pack(">Q", o) + bytes(n // 2)),
            "none": lambda s, c, o, n: s.chunk(1, 0, c),
            "elsewhere": lambda s, c, o, n: s.chunk(1, 1, c, struct.pack(">Q", o + 4096) + bytes(n)),
            "before": lambda s, c, o, n: s.chunk(1, 1, c, struct.pack(">Q", o - 512) + bytes(n)),
            "long": lambda s, c, o, n: s.chunk(1, 1, c, struct.pack(">Q", o) + bytes(n + 512)),
            "hole": lambda s, c, o, n: s.chunk(1, 2, c, struct.pack(">QI", o, n * 2)),
            "huge": lambda s, c, o, n: struct.pack(">IHHQI", hostile_nbd.CHUNK, 1, 1, c, 0xfffffff0),
            "unknown": lambda s, c, o, n: s.chunk(1, 77, c, bytes(16)),
            "twice": lambda s, c, o, n: s.chunk(0, 1, c, struct.pack(">Q", o) + bytes(n // 2)) * 2
                     + s.chunk(1, 0, c),
        }
        for name, change in changes.items():
            with self.subTest(name):
                server = self.over(self.lies(request=spoil(change)))
                client = self.connect(server)
                answer = self.read(client, 4096, 4096)
                self.assertEqual(answer, "EIO")
                self.assertTrue(server.alive())
                server.stop()

    def test_chunks_and_holes_that_are_right(self):
        def request(self, kind, cookie, offset, length, data):
            if kind != 0:
                return Honest.request(self, kind, cookie, offset, length, data)
            place = struct.pack(">Q", offset)
            if offset == 0:
                return self.chunk(1, 1, cookie, place + b"\1" * length)
            half = length // 2
            return (self.chunk(0, 1, cookie, place + b"\2" * half)
                    + self.chunk(0, 2, cookie, struct.pack(">QI", offset + half, half))
                    + self.chunk(1, 0, cookie))
        client = self.connect(self.over(self.lies(request=request)))
        for _ in range(20):
            self.assertEqual(self.read(client, 4096, 0), b"\1" * 4096)
            self.assertEqual(self.read(client, 4096, 8192), b"\2" * 2048 + bytes(2048))

    def test_extents_that_cannot_be(self):
        def spoil(entries, context=1):
            def request(self, kind, cookie, offset, length, data):
                if kind != 7:
                    return Honest.request(self, kind, cookie, offset, length, data)
                return self.chunk(1, 5, cookie, struct.pack(">I", context)
                                  + b"".join(struct.pack(">II", *e) for e in entries))
            return request
        for entries, context in (([], 1), ([(0, 3)], 1), ([(0xffffffff, 3)], 1), ([(100, 3)], 1),
                                 ([(511, 0), (1, 3), (513, 3), (511, 0)], 1), ([(512, 99)], 1),
                                 ([(512, 3)], 2), ([(512, 3)] * 9000, 1)):
            with self.subTest(entries=entries[:4], context=context):
                server = self.over(self.lies(request=spoil(entries, context)))
                client, found = self.connect(server), []

                def take(_context, offset, answer, _error):
                    found.append((offset, list(answer)))
                    return 0
                ended = self.ended(client, client.aio_block_status(65536, 4096, take), None)
                if ended == b"":
                    self.assertTrue(found)
                    for offset, answer in found:
                        self.assertEqual(offset, 4096)
                        self.assertTrue(all(n % 512 == 0 and n > 0 for n in answer[::2]), answer)
                        self.assertLessEqual(sum(answer[::2]), 65536)
                else:
                    self.assertEqual(ended, "EIO")
                server.stop()

    def test_every_error_number(self):
        for number in (1, 5, 12, 22, 28, 75, 95, 108, 0, 2, 999, 0xffffffff, 107):
            def request(self, kind, cookie, *_, number=number):
                return self.simple(cookie, number)
            client = self.connect(self.over(self.lies(request=request)))
            answer = self.write(client, bytes(512), 0)
            self.assertIn(answer, {0: (b"",), 1: ("EPERM",), 12: ("ENOMEM",), 28: ("ENOSPC",)}.get(
                number, ("EIO",)), number)

    def test_silence_ends_by_the_timeout(self):
        client = self.connect(self.over(self.lies(request=lambda *_: b"")))
        began = time.monotonic()
        self.assertEqual(self.write(client, bytes(512), 0), "EIO")
        self.assertEqual(self.read(client, 512, 0), "EIO")
        self.assertLess(time.monotonic() - began, 30)

    def test_it_hangs_up_at_every_request_and_is_not_stormed(self):
        def hang_up(*_):
            raise EOFError
        hostile, uri = self.hostile(self.lies(request=hang_up))
        client = self.connect(self.serve(f"table=0 {SECTORS} linear {uri} 0"))
        self.assertEqual(self.write(client, bytes(512), 0), "EIO")
        self.assertEqual(self.read(client, 512, 0), "EIO")
        before = hostile.count
        time.sleep(2)
        self.assertLess(hostile.count - before, 40)

    def test_a_proof_is_not_believed_without_its_words(self):
        """It opens any epoch, and describes itself as it likes."""
        for words in (b"", b"blockloom-epoch: 16", b"epoch 17", b"blockloom-epoch: 17x"):
            def option(self, option, data, words=words):
                if option != 7:
                    return Honest.option(self, option, data)
                return (self.option_reply(7, 3, self.export_info())
                        + self.option_reply(7, 3, struct.pack(">H", 2) + words)
                        + self.option_reply(7, 1))
            _, uri = self.hostile(self.lies(option=option))
            driver = legs.Driver(self, uri)
            driver.control()
            driver.say("fence 17 everyone 700")
            line = driver.next_line("fence 17 ")
            self.assertNotIn(" given", line)


class Fuzz(HostileCase):
    def test_garbage(self):
        """Answers with errors sown in, many seeds; HOSTILE_ROUNDS says how many."""
        seeds = random.Random(os.environ.get("HOSTILE_SEED") or random.randrange(1 << 30))
        first = seeds.randrange(1 << 30)
        print(f"     seed {first}", flush=True)
        counter = iter(range(first, first + 100 * ROUNDS))
        # One honest handshake to load the table by, then whatever comes.
        spoiled = [False]

        def behave():
            if not spoiled[0]:
                return Honest()
            return hostile_nbd.Fuzzed(next(counter))
        hostile, uri = self.hostile(behave, timeout_ms=300, connect_timeout_ms=200)
        server = self.serve(f"table=0 {SECTORS} linear {uri} 0", control=True)
        client = self.connect(server)
        self.assertEqual(self.read(client, 512, 0), bytes(512))
        spoiled[0] = True
        for connection in hostile.clients:
            connection.shutdown(2)
        rng = random.Random(first)
        for _ in range(ROUNDS):
            at = rng.randrange(64) * 4096
            what = rng.randrange(4)
            if what == 0:
                self.read(client, 4096, at)
            elif what == 1:
                self.write(client, bytes(4096), at)
            elif what == 2:
                self.ended(client, client.aio_block_status(65536, at, lambda *_: 0), None)
            else:
                self.ended(client, client.aio_flush(), None)
            self.assertTrue(server.alive(), server.log()[-3000:])
        # With an honest server again all is well.
        spoiled[0] = False
        deadline = time.monotonic() + 30
        while self.read(client, 512, 0) != bytes(512):
            self.assertLess(time.monotonic(), deadline, "it recovers")
        self.assertGreater(hostile.count, ROUNDS // 10)

    def test_garbage_at_load(self):
        for seed in range(ROUNDS // 4):
            behaviour = hostile_nbd.Fuzzed(random.randrange(1 << 30))
            _, uri = self.hostile(lambda b=behaviour: b, connect_timeout_ms=200, timeout_ms=200)
            server = self.serve(f"table=0 8 linear {uri} 0", ready=False)
            try:
                server.wait_ready(20)
            except AssertionError:
                self.assertEqual(server.process.wait(5), 1, server.log())
                self.assertIn("leg 'nbd+unix", server.log())
            server.stop()


if __name__ == "__main__":
    unittest.main()
