"""What no initiator should do: cuts at every PDU's boundary, thousands of connects and drops, slow
readers, half-open logins, floods. The server keeps its memory and descriptors, and the others
their service."""

import os
import random
import socket
import struct
import threading
import time

import harness
import iscsi
from harness import pattern
from iscsi import COMMAND, read10, write10

SIZE = 8 << 20


class Abuse(iscsi.Case):
    settings = ""

    def setUp(self):
        super().setUp()
        disk = self.make_file("a.img", SIZE, seed=7)
        config = self.write_text("blockloom.toml", f"[iscsi]\n{self.settings}\n")
        self.server = self.serve_iscsi(f"config={config}", f"device=a:0 {SIZE // 512} linear {disk} 0",
                                       control=True)
        self.other = self.session(name="iqn.2026-01.org.blockloom:other")

    def memory(self):
        """Of the server, in KiB."""
        with open(f"/proc/{self.server.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

    def sessions(self):
        return len(self.server.rpc("iscsi_sessions")["sessions"])

    def settled(self, descriptors):
        harness.wait_until(lambda: self.server.descriptors() <= descriptors and self.sessions() <= 1,
                           "descriptors and sessions as before")

    def others_are_served(self):
        self.assertEqual(self.other.read(9000, 1)[1], pattern(SIZE, 7)[9000 * 512:9001 * 512])


class Cuts(Abuse):
    """A whole conversation, cut after each of its bytes' PDUs and in the middle of each."""

    def conversation(self, session):
        """The PDUs of a session, each as bytes; answers are taken as they come."""
        session.socket.sendall(b"".join(
            [session.pack(*session.login_pdu(0x87, session.names(ImmediateData="Yes",
                                                                 InitialR2T="No")))]))
        session.receive()
        yield
        tag = session.next_tag()
        for cdb, flags, data in ((iscsi.INQUIRY, 0xc1, b""), (read10(0, 64), 0xc1, b""),
                                 (write10(0, 8), 0xa1, bytes(4096))):
            tag = session.next_tag()
            length = len(data) or 32768
            yield session.pack(session.header(COMMAND, flags, tag, data, ttt=length, rest=cdb), data)
            session.cmd_sn += 1
        tag = session.next_tag()  # data that come later
        yield session.pack(session.header(COMMAND, 0x21, tag, bytes(512), ttt=4096,
                                          rest=write10(8, 8)), bytes(512))
        session.cmd_sn += 1
        yield session.pack(session.header(iscsi.DATA_OUT, 0x80, tag, bytes(3584), cmd_sn=0,
                                          rest=struct.pack(">III", 0, 0, 512)), bytes(3584))
        yield session.pack(session.header(iscsi.NOP_OUT, 0x80, session.next_tag(), b"ping",
                                          immediate=True), b"ping")
        yield session.pack(session.header(iscsi.TASK, 0x82, session.next_tag(), immediate=True))
        yield session.pack(session.header(iscsi.TEXT, 0x80, session.next_tag(), b"SendTargets=\0",
                                          immediate=True), b"SendTargets=\0")
        yield session.pack(session.header(iscsi.LOGOUT, 0x80, session.next_tag(), immediate=True))

    def test_a_session_cut_at_every_boundary_and_inside(self):
        before = self.server.descriptors()
        for pdus in range(10):
            for part in (0.0, 0.01, 0.5, 0.99):
                session = self.initiator()
                count = 0
                for pdu in self.conversation(session):
                    if pdu is None:
                        continue
                    if count == pdus:
                        session.socket.sendall(pdu[:int(len(pdu) * part)])
                        break
                    session.socket.sendall(pdu)
                    count += 1
                if pdus % 2:  # by a reset, not in good order
                    session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                              struct.pack("ii", 1, 0))
                session.close()
            self.others_are_served()
        self.settled(before)

    def test_a_login_cut_everywhere(self):
        before = self.server.descriptors()
        with_login = self.initiator()
        text = with_login.pack(*with_login.login_pdu(0x87, with_login.names()))
        for length in [*range(0, 56), *range(56, len(text), 7)]:
            session = self.initiator()
            session.socket.sendall(text[:length])
            session.close()
        with_login.close()
        self.others_are_served()
        self.settled(before)

    def test_a_byte_at_a_time(self):
        session = self.initiator()
        text = session.pack(*session.login_pdu(0x87, session.names()))
        for at in range(len(text)):
            session.socket.sendall(text[at:at + 1])
        self.assertEqual(session.receive().header[36:38], b"\0\0")
        session.clear_attentions()
        data = pattern(4096, 3)
        text = session.pack(session.header(COMMAND, 0xa1, 0x999, data, ttt=4096,
                                           rest=write10(0, 8)), data)
        session.cmd_sn += 1
        for at in range(0, len(text), 13):
            session.socket.sendall(text[at:at + 13])
        self.assertEqual(session.finish(0x999)[0].status, 0)
        self.assertEqual(session.read(0, 8)[1], data)


class Numbers(Abuse):
    def test_10000_connects_and_drops(self):
        def drop(count, talk):
            for _ in range(count):
                connection = socket.create_connection(("127.0.0.1", self.port), 20)
                talk(connection)
                connection.close()

        def log_in(connection):
            session = iscsi.Initiator.__new__(iscsi.Initiator)
            session.__dict__.update(socket=connection, name=iscsi.NAME, cmd_sn=1, exp_stat_sn=0,
                                    isid=random.randbytes(6), itt=1, header_digest=False,
                                    data_digest=False)
            connection.sendall(session.pack(*session.login_pdu(0x87, session.names())))
            connection.recv(48)

        drop(300, log_in)  # what is kept for use again is there now
        self.settled(self.server.descriptors())
        before, memory = self.server.descriptors(), self.memory()
        drop(4000, lambda connection: None)
        drop(3000, lambda connection: connection.sendall(b"\x43\x87 half a header"))
        drop(3000, log_in)
        self.others_are_served()
        self.settled(before)
        # A sanitizer keeps what was freed, up to 256 MiB, to notice its use.
        kept = 300 << 10 if os.environ.get("BLOCKLOOM_SANITIZER") else 0
        self.assertLess(self.memory() - memory, (16 << 10) + kept, "KiB grown")

    def test_random_bytes_after_login(self):
        before = self.server.descriptors()
        generator = random.Random(5)
        for seed in range(60):
            session = self.session(isid=b"\x80\0\0\0\0\1")
            text = generator.randbytes(generator.randrange(1, 4000))
            if seed % 2:  # with opcodes and lengths that are taken
                opcode = generator.choice([0, 1, 2, 4, 5, 6, 0x10])
                text = bytes([opcode | 0x40, text[0]]) + bytes(5) + bytes([len(text) % 200]) + text
            try:
                session.socket.sendall(text)
            except OSError:
                pass
            session.close()
        self.others_are_served()
        self.settled(before)


class Slow(Abuse):
    settings = 'send_timeout = "2s"\nlogin_timeout = "2s"\nunauthenticated = 20\n' \
               'ping_interval = "1s"\nping_timeout = "1s"'

    def answer_pings(self):
        """The other session's initiator, which is a good one."""
        def run():
            while not done.is_set():
                self.other.nop(itt=iscsi.NO_TAG)
                time.sleep(0.3)
        done = threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(done.set)

    def test_an_initiator_that_does_not_read_is_dropped(self):
        self.answer_pings()
        memory = self.memory()
        session = self.session()
        session.socket.settimeout(30)
        text = b""
        for _ in range(100):
            text += session.pack(session.header(COMMAND, 0xc1, session.next_tag(), ttt=1 << 20,
                                                rest=read10(0, 2048)))
            session.cmd_sn += 1
        session.socket.sendall(text)
        # And a flood of pings behind: nothing grows without bound.
        with self.assertRaises(OSError):
            while True:
                session.nop(bytes(8000))
        self.assertLess(self.memory() - memory, 200 << 10, "KiB grown")
        harness.wait_until(lambda: self.sessions() <= 1, "the session is gone")

    def test_half_open_logins_end_and_do_not_keep_others_out(self):
        self.answer_pings()
        held = [socket.create_connection(("127.0.0.1", self.port), 20) for _ in range(40)]
        for connection in held:
            self.addCleanup(connection.close)
        started = time.monotonic()

        def served():
            try:
                session = self.initiator()
                return session.login().header[36:38] == b"\0\0"
            except (OSError, EOFError):
                return False
        harness.wait_until(served, "a login gets through", 20)
        self.assertLess(time.monotonic() - started, 15)
        for connection in held:
            connection.settimeout(10)
            self.assertEqual(connection.recv(1), b"", "each is closed")

    def test_a_silent_initiator_is_pinged_and_then_dropped(self):
        self.answer_pings()
        session = self.session()
        ping = session.receive()
        self.assertEqual((ping.opcode, ping.itt), (iscsi.NOP_IN, iscsi.NO_TAG))
        session.send(session.header(iscsi.NOP_OUT, 0x80, iscsi.NO_TAG, immediate=True,
                                    ttt=ping.ttt))
        self.assertNotEqual(session.receive().ttt, ping.ttt, "another, later")
        started = time.monotonic()
        self.assertTrue(session.closed())
        self.assertLess(time.monotonic() - started, 15)


class Quit(Abuse):
    def test_the_server_ends_under_load_and_says_so(self):
        session = self.session()
        session.command(write10(0, 8), 4096, 0x20)  # whose data never come
        self.server.signal(harness.signal.SIGTERM)
        self.assertTrue(session.closed())
        self.assertEqual(self.server.wait_end(), 0)
