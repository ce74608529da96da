"""What the logical unit owes to more than one client: locks between protocols, sizes that change,
reservations that outlive the server."""

import struct
import threading

import daemon
import iscsi
from harness import pattern, wait_until

SECTOR = 512
DISK = 1 << 20
BLOCK = 9  # whose bytes the clients race for
CONFLICT = 0x18

READ_CAPACITY = bytes([0x25] + [0] * 9)
READ_KEYS = bytes([0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0])


def compare_and_write(lba):
    return struct.pack(">BBQBBBBBB", 0x89, 0, lba, 0, 0, 0, 1, 0, 0)


def reserve_out(action, kind=0):
    return struct.pack(">BBBHIB", 0x5f, action, kind, 0, 24, 0)


def keys(key, action_key, aptpl=False):
    return struct.pack(">QQIBBH", key, action_key, 0, 1 if aptpl else 0, 0, 0)


SLOW = f"0 {DISK // SECTOR} linear fault:[read=delay:300us;write=delay:300us]:mem:1M 0"


class Locking(iscsi.Case):
    """COMPARE AND WRITE between an NBD client and iSCSI sessions. Each leg's answer takes a while,
    so that whoever does not wait comes between the comparison and the write."""

    @staticmethod
    def increment(session, at):
        """Adds one to a counter in the block, as a lock would be taken: until nobody else was
        faster. How often it took."""
        tries = 0
        while True:
            tries += 1
            old = session.read(BLOCK, 1)[1]
            new = bytearray(old)
            struct.pack_into(">Q", new, at, struct.unpack_from(">Q", old, at)[0] + 1)
            end = session.finish(session.command(compare_and_write(BLOCK), 2 * SECTOR, 0x20,
                                                 old + bytes(new)))[0]
            if end.status == 0:
                return tries
            if end.sense != (0x0e, 0x1d00):
                raise AssertionError(f"COMPARE AND WRITE: {end.status} {end.sense}")

    def check_writes_stay(self, nbd, session):
        """COMPARE AND WRITE keeps the NBD client's half of the block. Were it not a lock, it would
        now and then put an older half back, over one that was written between."""
        stop, failures = threading.Event(), []

        def count():
            try:
                while not stop.is_set():
                    self.increment(session, 8)
            except AssertionError as error:
                failures.append(error)

        counting = threading.Thread(target=count)
        counting.start()
        try:
            for number in range(1, 400):
                nbd.pwrite(struct.pack(">Q", number) + bytes(SECTOR - 8), BLOCK * SECTOR)
                found = struct.unpack_from(">Q", nbd.pread(SECTOR, BLOCK * SECTOR))[0]
                self.assertEqual(found, number, "a write was undone by an older compare and write")
        finally:
            stop.set()
            counting.join()
        self.assertEqual(failures, [])


class Locks(Locking):
    def setUp(self):
        super().setUp()
        self.server = self.serve_iscsi(f"table={SLOW}", control=True)

    def test_what_an_nbd_client_wrote_is_never_undone(self):
        self.check_writes_stay(self.connect(self.server), self.session())

    def test_two_sessions_count_without_losing_one(self):
        rounds = 100
        sessions = [self.session(isid=b"\x80\0\0\0\0" + bytes([n])) for n in (1, 2)]
        tries = [0, 0]

        def count(who):
            for _ in range(rounds):
                tries[who] += self.increment(sessions[who], 0)

        threads = [threading.Thread(target=count, args=(who,)) for who in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = struct.unpack_from(">Q", self.connect(self.server).pread(SECTOR, BLOCK * SECTOR))[0]
        self.assertEqual(total, 2 * rounds)
        self.assertGreater(sum(tries), 2 * rounds, "they never met")


class StackedLocks(Locking):
    def test_a_writer_of_a_device_above_waits_as_well(self):
        server = self.serve_iscsi(f"device=lower:{SLOW}",
                                  f"device=upper:0 {DISK // SECTOR} linear dev:lower 0",
                                  control=True)
        self.check_writes_stay(self.connect(server, "upper"), self.session())


class Sizes(iscsi.Case):
    def test_a_session_hears_of_a_new_size(self):
        server = self.serve_iscsi("device=vol:0 2048 linear mem:1M 0", control=True)
        session = self.session()
        server.rpc("load", {"device": "vol", "table": "0 4096 linear mem:2M 0"})
        server.rpc("resume", {"device": "vol"})
        told = session.receive()
        self.assertEqual(told.opcode, iscsi.ASYNC)
        self.assertEqual(told.data[2 + 12:2 + 14], b"\x2a\x09")
        end = session.finish(session.command(iscsi.TEST_UNIT_READY))[0]
        self.assertEqual(end.sense, (6, 0x2a09))
        data = session.finish(session.command(READ_CAPACITY, 8, 0x40))[1]
        self.assertEqual(struct.unpack(">II", data), (4095, SECTOR))
        self.assertEqual(session.write(4088, pattern(4096, 1)).status, 0)

    def test_commands_wait_for_the_resume_and_an_aborted_one_does_not(self):
        server = self.serve_iscsi("device=vol:0 2048 linear mem:1M 0", control=True)
        session = self.session()
        server.rpc("suspend", {"device": "vol"})
        kept = session.command(iscsi.read10(0, 1), SECTOR, 0x40)
        aborted = session.command(iscsi.read10(8, 1), SECTOR, 0x40)
        wait_until(lambda: server.rpc("info", {"device": "vol"})["devices"][0]["queued"] == 2,
                   "two commands wait")
        self.assertEqual(session.task(1, aborted).header[2], 0)
        self.assertEqual(server.rpc("info", {"device": "vol"})["devices"][0]["queued"], 1)
        server.rpc("resume", {"device": "vol"})
        end, data = session.finish(kept)
        self.assertEqual((end.status, len(data)), (0, SECTOR))


class Reservations(daemon.Case, iscsi.Case):
    def setUp(self):
        super().setUp()
        self.port = self.free_port()

        disk = self.make_file("a.img", DISK)
        self.state = self.new_folder()
        self.configure(self.state, f'[iscsi]\nportals = ["127.0.0.1:{self.port}"]\n'
                       + daemon.device("vol", f"0 {DISK // SECTOR} linear {disk} 0"), state=True)

    @staticmethod
    def reserve(session, action, key, action_key, kind=0, aptpl=False):
        data = keys(key, action_key, aptpl)
        return session.finish(session.command(reserve_out(action, kind), 24, 0x20, data))[0].status

    def test_aptpl_outlives_a_kill_of_the_server(self):
        server = self.run_daemon(self.state)
        first, second = self.session(), self.session(name=iscsi.NAME + ":b")
        self.assertEqual(self.reserve(first, 0, 0, 0x11, aptpl=True), 0)
        self.assertEqual(self.reserve(first, 1, 0x11, 0, kind=1), 0)
        self.assertEqual(second.write(0, bytes(SECTOR)).status, CONFLICT)
        server.process.kill()
        server.wait_end()

        server = self.run_daemon(self.state)
        first, second = self.session(), self.session(name=iscsi.NAME + ":b")
        self.assertEqual(second.write(0, bytes(SECTOR)).status, CONFLICT)
        self.assertEqual(first.write(0, bytes(SECTOR)).status, 0)
        self.assertEqual(first.finish(first.command(READ_KEYS, 256, 0x40))[1],
                         struct.pack(">IIQ", 0, 8, 0x11))
        self.assertEqual(self.reserve(first, 3, 0x11, 0), 0)
        server.process.kill()
        server.wait_end()

        server = self.run_daemon(self.state)
        second = self.session(name=iscsi.NAME + ":b")
        self.assertEqual(second.write(0, bytes(SECTOR)).status, 0)
