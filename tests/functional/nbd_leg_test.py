"""NBD exports as legs of plain tables: every kind of server behind, and what becomes of requests
when the server hangs, dies, comes back, or its link is cut."""

import os
import random
import socket
import time
import unittest

import harness
import legs
from harness import MIB, SECTOR, extents, nbd, pattern

SIZE = 32 * MIB
SECTORS = SIZE // SECTOR


class LegCase(harness.Case):
    def over(self, uri, size=SIZE, **how):
        return self.serve(f"table=0 {size // SECTOR} linear {uri} 0", **how)

    def exercise(self, uri):
        """Random reads, writes, zeroes and trims against a model, by several clients."""
        server = self.over(uri)
        clients = [self.connect(server) for _ in range(3)]
        content, rng = bytearray(SIZE), random.Random(1)
        clients[0].zero(SIZE, 0)
        for step in range(150):
            client = rng.choice(clients)
            at = rng.randrange(SECTORS) * SECTOR
            length = min(SIZE - at, rng.choice((1, 1, 3, 8, 8, 64, 1000, 5000)) * SECTOR)
            what = rng.randrange(8)
            if what < 4:
                data = pattern(length, step)
                client.pwrite(data, at, nbd.CMD_FLAG_FUA if what == 0 else 0)
                content[at:at + length] = data
            elif what == 4:
                client.zero(length, at, rng.choice((0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA)))
                content[at:at + length] = bytes(length)
            elif what == 5:
                client.flush()
                client.cache(length, at)
            else:
                self.assertEqual(client.pread(length, at), content[at:at + length], (step, at))
        self.assertEqual(clients[0].pread(SIZE // 2, SIZE // 2), content[SIZE // 2:])
        return server, clients[0], content


class EveryServer(LegCase):
    def test_nbdkit_memory(self):
        _, client, _ = self.exercise(legs.nbdkit(self, "memory", str(SIZE)).uri())
        self.assertEqual(client.get_size(), SIZE)

    def test_nbdkit_file_over_tcp_with_extents(self):
        image = self.make_file("leg.img", SIZE)
        server = legs.nbdkit(self, "file", image, tcp=True)
        top, client, content = self.exercise(server.uri())
        client.flush()
        self.assertEqual(self.read_file(image), content)
        client.zero(SIZE, 0)
        client.trim(SIZE, 0)
        client.pwrite(pattern(MIB, 1), 4 * MIB)
        found = extents(client)
        self.assertEqual(sum(length for length, _ in found), SIZE)
        self.assertEqual([flags for _, flags in found], [3, 0, 3])
        self.assertTrue(top.alive())

    def test_our_own_server(self):
        self.exercise(legs.ours(self, f"0 {SECTORS} linear mem:{SIZE} 0").uri("vol"))

    def test_several_connections(self):
        server = legs.nbdkit(self, "--filter=log", "memory", str(SIZE), "logfile=log.txt")
        self.exercise(server.uri(connections=4))
        log = self.read_file(self.path("log.txt")).decode()
        for connection in range(1, 5):
            self.assertTrue(f"connection={connection} Write" in log, connection)

    def test_a_server_that_takes_one_connection_gets_one(self):
        server = legs.nbdkit(self, "--filter=multi-conn", "--filter=log", "memory", str(SIZE),
                             "logfile=log.txt", "multi-conn-mode=disable")
        self.exercise(server.uri(connections=4))
        log = self.read_file(self.path("log.txt")).decode()
        self.assertFalse("connection=2 Connect" in log)

    def test_a_server_that_can_do_little(self):
        """No flush, FUA, trim, zero, cache or extents: zeroes are written, the rest is nothing."""
        server = legs.nbdkit(self, "eval", f"get_size=echo {SIZE}", "can_write=exit 0",
                             "can_zero=exit 3", f"open=truncate -s {SIZE} $tmpdir/disk",
                             "pread=dd if=$tmpdir/disk skip=$4 count=$3 iflag=skip_bytes,count_bytes",
                             "pwrite=dd of=$tmpdir/disk seek=$4 conv=notrunc oflag=seek_bytes")
        client = self.connect(self.over(server.uri()))
        client.pwrite(pattern(8192, 1), 4096, nbd.CMD_FLAG_FUA)
        client.zero(4096, 4096)
        client.flush()
        client.trim(4096, 8192)
        self.assertEqual(client.pread(8192, 4096)[:4096], bytes(4096))
        self.assertEqual(extents(client), [(SIZE, 0)])
        self.assert_errno("ENOTSUP", client.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO)

    def test_fua_where_the_server_has_none(self):
        server = legs.nbdkit(self, "--filter=log", "--filter=fua", "memory", str(SIZE),
                             "logfile=log.txt")
        client = self.connect(self.over(server.uri()))
        client.pwrite(bytes(4096), 0, nbd.CMD_FLAG_FUA)
        client.zero(4096, 0, nbd.CMD_FLAG_FUA)
        log = self.read_file(self.path("log.txt")).decode()
        self.assertEqual(log.count(" Flush "), 2)

    def test_large_blocks_and_small_requests_of_the_server(self):
        """Requests are split at the server's largest; a client's odd sectors are merged into the
        server's blocks."""
        server = legs.nbdkit(self, "--filter=blocksize-policy", "memory", str(SIZE),
                             "blocksize-minimum=4096", "blocksize-preferred=4096",
                             "blocksize-maximum=65536", "blocksize-error-policy=error")
        self.exercise(server.uri())

    def test_the_server_s_errors_are_the_client_s(self):
        server = legs.nbdkit(self, "--filter=error", "memory", str(SIZE), "error-pwrite=ENOSPC",
                             "error-pwrite-rate=100%", "error-pread=EIO", "error-pread-rate=100%")
        client = self.connect(self.over(server.uri()))
        self.assert_errno("ENOSPC", client.pwrite, bytes(4096), 0)
        self.assert_errno("EIO", client.pread, 4096, 0)

    @unittest.skipUnless(legs.have("qemu-nbd"), "qemu-nbd is missing (package qemu-utils)")
    def test_qemu_nbd(self):
        image = self.make_file("leg.img", SIZE)
        _, client, content = self.exercise(legs.qemu_nbd(self, image).uri(connections=2))
        client.flush()
        self.assertEqual(self.read_file(image), content)

    @unittest.skipUnless(legs.have("nbd-server"), "nbd-server is missing (package nbd-server)")
    def test_nbd_server(self):
        image = self.make_file("leg.img", SIZE)
        _, client, content = self.exercise(legs.nbd_server(self, image).uri("vol"))
        client.flush()
        self.assertEqual(self.read_file(image), content)

    def test_a_stripe_set_over_two(self):
        a, b = (legs.nbdkit(self, "memory", str(SIZE)) for _ in range(2))
        server = self.serve(f"table=0 {SECTORS * 2} striped 2 128 {a.uri()} 0 {b.uri()} 0")
        client = self.connect(server)
        data = pattern(4 * MIB, 3)
        client.pwrite(data, 12345 * SECTOR)
        self.assertEqual(client.pread(4 * MIB, 12345 * SECTOR), data)
        client.flush()


@unittest.skipUnless(legs.have("psktool", "certtool"), "psktool is missing (package gnutls-bin)")
class Tls(LegCase):
    def test_a_shared_key(self):
        keys, other = self.path("keys.psk"), self.path("other.psk")
        for path in (keys, other):
            self.command("psktool", "-u", "alice", "-p", path)
        path = legs.place(self)
        server = legs.LegServer(self, ["nbdkit", "-f", "-U", path, "--tls=require",
                                       f"--tls-psk={keys}", "memory", str(SIZE)], path=path)
        tls = server.uri().replace("nbd+unix://", "nbds+unix://alice@")
        self.exercise(f"{tls}&tls-psk-file={keys}")
        self.assertIn("TLS", self.refuse(f"table=0 8 linear {tls}&tls-psk-file={other} 0").upper())
        said = self.refuse(f"table=0 8 linear {server.uri()} 0")
        self.assertIn("requires TLS", said)

    def test_certificates(self):
        pki = self.path("pki")
        os.mkdir(pki)

        def make(name, template, *more):
            self.write_text(f"pki/{name}.template", template)
            self.command("certtool", "--generate-privkey", "--ecc", "--outfile",
                         f"{pki}/{name}-key.pem")
            self.command("certtool", *more, "--load-privkey", f"{pki}/{name}-key.pem", "--template",
                         f"{pki}/{name}.template", "--outfile", f"{pki}/{name}-cert.pem")
        sign = ("--generate-certificate", "--load-ca-certificate", f"{pki}/ca-cert.pem",
                "--load-ca-privkey", f"{pki}/ca-key.pem")
        make("ca", "cn = test\nca\ncert_signing_key\n", "--generate-self-signed")
        make("server", "cn = localhost\ndns_name = localhost\ntls_www_server\nsigning_key\n", *sign)
        server = legs.nbdkit(self, "memory", str(SIZE), tcp=True,
                             flags=("--tls=require", f"--tls-certificates={pki}"))
        named = f"nbds://localhost:{server.port}/?tls-certificates={pki}"
        self.exercise(named)
        # Another name than the certificate's is not the server that was meant.
        wrong = f"nbds://127.0.0.1:{server.port}/?tls-certificates={pki}"
        self.assertIn(f"nbds://127.0.0.1:{server.port}: ", self.refuse(f"table=0 8 linear {wrong} 0"))
        self.over(wrong + "&tls-verify-peer=no")


class Absent(LegCase):
    """What is not there when the table is loaded."""

    def test_nobody_listens(self):
        port = legs.free_port()
        said = self.refuse(f"table=0 8 linear nbd://127.0.0.1:{port}/x 0")
        self.assertIn(f"leg 'nbd://127.0.0.1:{port}/x': nbd://127.0.0.1:{port}: ", said)

    def test_a_silent_server_costs_the_connect_timeout(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(1)
            began = time.monotonic()
            said = self.refuse("table=0 8 linear nbd://127.0.0.1:"
                               f"{silent.getsockname()[1]}/?connect_timeout_ms=300 0")
            self.assertIn("it does not answer", said)
            self.assertLess(time.monotonic() - began, 20)

    def test_an_unknown_export(self):
        server = legs.ours(self, "0 8 zero")
        said = self.refuse(f"table=0 8 linear {server.uri('nobody')} 0")
        self.assertIn("nobody", said)

    def test_a_read_only_export(self):
        server = legs.nbdkit(self, "memory", str(SIZE), flags=("-r",))
        said = self.refuse(f"table=0 8 linear {server.uri()} 0")
        self.assertIn("the server offers it for reading only: load this table read-only too", said)
        client = self.connect(self.serve(f"table=0 8 linear {server.uri()} 0", "readonly=true"))
        self.assertEqual(client.pread(4096, 0), bytes(4096))

    def test_an_export_that_is_too_small(self):
        server = legs.nbdkit(self, "memory", "64K")
        self.assertIn("is too small: it has 128 sectors",
                      self.refuse(f"table=0 129 linear {server.uri()} 0"))


class Failing(LegCase):
    """The server hangs or dies under clients."""

    def test_a_hung_server_s_requests_end_by_the_timeout(self):
        # Not a plain nbdkit: 1.32.5 may abort when a client is gone with requests in flight.
        server = legs.ours(self, f"0 {SECTORS} linear mem:{SIZE} 0")
        client = self.connect(self.over(server.uri("vol", timeout_ms=500, connect_timeout_ms=300)))
        client.pwrite(b"\1" * 4096, 0)
        server.stop()
        began = time.monotonic()
        self.assert_errno("EIO", client.pwrite, b"\2" * 4096, 4096)
        self.assert_errno("EIO", client.pread, 4096, 0)
        self.assertLess(time.monotonic() - began, 20)
        server.go_on()
        # It is connected again by itself.
        self.eventually(client.pread, 4096, 0)

    def eventually(self, call, *arguments, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return call(*arguments)
            except nbd.Error:
                if time.monotonic() > deadline:
                    raise

    def test_requests_wait_for_a_server_that_comes_back(self):
        image = self.make_file("leg.img", SIZE, seed=1)
        server = legs.nbdkit(self, "file", image)
        top = self.over(server.uri())
        clients = [self.connect(top) for _ in range(2)]
        for client in clients:
            self.assertEqual(client.pread(4096, 0), pattern(SIZE, 1)[:4096])
        server.kill()
        # Neither a read nor a write that finds the server gone fails.
        buffer = nbd.Buffer(4096)
        read = clients[0].aio_pread(buffer, 4096)
        write = clients[1].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), 0)
        time.sleep(1)
        self.assertEqual([self.ended(clients[0], read, 0), self.ended(clients[1], write, 0)],
                         [None, None])
        server.start()
        self.assertEqual([self.ended(clients[0], read), self.ended(clients[1], write)], ["ok", "ok"])
        self.assertEqual(buffer.to_bytearray(), pattern(SIZE, 1)[4096:8192])
        self.assertEqual(clients[0].pread(4096, 0), bytes(4096))
        self.assertIn("connected again", top.log())

    @staticmethod
    def ended(client, cookie, seconds=harness.PATIENCE):
        """"ok", an errno, or None if it has not ended by then. (libnbd's own waiting holds Python's
        lock: nothing else would run.)"""
        deadline = time.monotonic() + seconds
        while True:
            client.poll(10)
            try:
                if client.aio_command_completed(cookie):
                    return "ok"
            except nbd.Error as error:
                return error.errno
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def test_a_lost_server_takes_unflushed_writes_with_it_and_the_flush_says_so(self):
        server = legs.nbdkit(self, "memory", str(SIZE))
        client = self.connect(self.over(server.uri()))
        client.pwrite(b"\1" * 4096, 0)
        client.flush()
        server.restart()
        client.pread(4096, 0)
        client.flush()  # all was flushed
        client.pwrite(b"\2" * 4096, 0)
        server.restart()
        self.assertEqual(client.pread(4096, 0), bytes(4096))
        self.assert_errno("EIO", client.flush)
        client.flush()

    def test_reads_in_flight_are_asked_again_and_writes_are_not(self):
        server = legs.nbdkit(self, "--filter=delay", "memory", str(SIZE), "rdelay=1", "wdelay=1")
        client = self.connect(self.over(server.uri()))
        buffer = nbd.Buffer(512)
        read = client.aio_pread(buffer, 0)
        write = client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 0)
        self.ended(client, read, 0.4)
        server.restart()
        self.assertEqual([self.ended(client, read), self.ended(client, write)], ["ok", "EIO"])
        self.assertEqual(buffer.to_bytearray(), bytes(512))

    def test_a_cut_cable_is_mended(self):
        server = legs.nbdkit(self, "memory", str(SIZE), tcp=True)
        cable = legs.Cable(self, server.port)
        client = self.connect(self.over(f"nbd://127.0.0.1:{cable.port}/?connections=2"))
        for round_ in range(3):
            client.pwrite(bytes([round_]) * 4096, 0)
            cable.cut()
            buffer = nbd.Buffer(4096)
            read = client.aio_pread(buffer, 0)
            self.assertEqual(self.ended(client, read, 0.5), None)
            cable.mend()
            self.assertEqual(self.ended(client, read), "ok")
            self.assertEqual(buffer.to_bytearray(), bytes([round_]) * 4096)

    def test_a_server_that_came_back_smaller_is_not_used(self):
        server = legs.nbdkit(self, "memory", str(SIZE))
        top = self.over(server.uri(timeout_ms=2000))
        client = self.connect(top)
        client.pread(512, 0)
        server.command[-1] = str(SIZE // 2)
        server.restart()
        self.assert_errno("EIO", client.pread, 512, 0)
        self.assertIn(f"shrunk from {SIZE} to {SIZE // 2} bytes", top.log())

    def test_the_server_stops_while_its_leg_hangs(self):
        server = legs.nbdkit(self, "memory", str(SIZE))
        top = self.over(server.uri())
        client = self.connect(top)
        server.stop()
        for i in range(40):
            client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(MIB)), i % 8 * MIB)
        time.sleep(0.3)
        self.assertEqual(top.terminate(seconds=15), 0)
        server.go_on()

    def test_a_table_over_a_hung_leg_is_left_by_force(self):
        server = legs.nbdkit(self, "memory", str(SIZE))
        top = self.over(server.uri(), control=True)
        client = self.connect(top)
        server.stop()
        client.aio_pread(nbd.Buffer(4096), 0)
        time.sleep(0.2)
        top.rpc("remove", {"device": "default", "force": True})
        server.go_on()
        self.assertTrue(top.alive())

    def test_descriptors_and_threads_stay_as_many(self):
        server = legs.nbdkit(self, "memory", str(SIZE))
        top = self.over(server.uri(), control=True)
        client = self.connect(top)
        client.pread(512, 0)
        harness.wait_until(lambda: top.threads() > 0, "threads")
        before = None
        for _ in range(6):
            server.restart()
            client.pread(512, 0)
            top.rpc("load", {"device": "default",
                             "table": f"0 {SECTORS} linear {server.uri()} 0"})
            top.rpc("resume", {"device": "default"})
            client.pread(512, 0)
            if before is None:
                before = top.descriptors(), top.threads()
        harness.wait_until(lambda: (top.descriptors(), top.threads()) <= before,
                           "as many descriptors and threads as before")


if __name__ == "__main__":
    unittest.main()
