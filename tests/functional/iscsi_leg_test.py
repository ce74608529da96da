"""iSCSI legs against Debian's tgtd: bytes, CHAP, digests, lost and hung targets, fences."""

import os
import time
import unittest

import harness
from harness import MIB, SECTOR, extents, pattern, sectors, wait_until
from iscsi_target import Drive, Tgtd
from layout import Linear, gather, read_all, scribble


class Plain(harness.Case):
    """A linear device over a LUN."""

    def setUp(self):
        super().setUp()
        self.disk = self.make_file("lun.img", 16 * MIB)

    def linear(self, uri, size=16 * MIB, **options):
        return self.serve(f"table=0 {sectors(size)} linear {uri} 0", **options)

    def check_bytes(self, uri):
        client = self.connect(self.linear(uri))
        layout = Linear((self.disk, 0, 16 * MIB))
        expected = scribble(client, gather(layout), seed=uri)
        self.assertEqual(read_all(client, 16 * MIB), expected)
        client.flush()
        self.assertEqual(gather(layout), expected)

    def test_bytes_are_where_they_belong(self):
        self.check_bytes(Tgtd(self, self.disk).uri())

    def test_bytes_with_both_digests(self):
        self.check_bytes(Tgtd(self, self.disk, digests=True).uri(
            "header_digest=crc32c&data_digest=crc32c"))

    def test_bytes_with_one_command_at_a_time(self):
        self.check_bytes(Tgtd(self, self.disk).uri("queue_depth=1"))

    def test_bytes_of_blocks_of_4096_with_requests_of_512(self):
        self.check_bytes(Tgtd(self, self.disk, block_size=4096, digests=True).uri(
            "data_digest=crc32c"))

    def test_neighbours_in_one_block_of_4096_do_not_lose_each_other(self):
        target = Tgtd(self, self.disk, block_size=4096)
        drive = Drive(self, target.uri())
        for turn in range(8):
            tags = [drive.start("write", 8192 + i * SECTOR, SECTOR, turn * 16 + i)
                    for i in range(24)]
            self.assertEqual([drive.end(tag) for tag in tags], [["ok"]] * 24)
            for i in range(24):
                self.assertEqual(drive.run("read", 8192 + i * SECTOR, SECTOR),
                                 ["ok", str(turn * 16 + i)])

    def test_large_requests(self):
        target = Tgtd(self, self.disk)
        client = self.connect(self.linear(target.uri()))
        data = pattern(15 * MIB, 4)
        client.pwrite(data, SECTOR)
        self.assertEqual(client.pread(15 * MIB, SECTOR), data)
        client.flush()
        self.assertEqual(self.read_file(self.disk, SECTOR, 15 * MIB), data)

    def test_a_thin_lun_is_trimmed_and_zeroed_and_tells_its_holes(self):
        with open(self.disk, "r+b") as file:
            file.write(pattern(16 * MIB, 1))
        target = Tgtd(self, self.disk, thin=True)
        client = self.connect(self.linear(target.uri()))
        expected = bytearray(pattern(16 * MIB, 1))
        blocks = os.stat(self.disk).st_blocks
        client.trim(4 * MIB, 4 * MIB)
        client.zero(2 * MIB, 10 * MIB)
        client.flush()
        expected[10 * MIB:12 * MIB] = bytes(2 * MIB)
        self.assertLess(os.stat(self.disk).st_blocks, blocks - sectors(4 * MIB) + 64)
        found = read_all(client, 16 * MIB)
        self.assertEqual(found[:4 * MIB], expected[:4 * MIB])
        self.assertEqual(found[8 * MIB:], expected[8 * MIB:])
        runs, at = [], 0
        for length, flags in extents(client):
            runs.append((at, flags))
            at += length
        self.assertIn((4 * MIB, 3), runs)

    def test_a_plain_lun_is_zeroed_and_ignores_trims(self):
        with open(self.disk, "r+b") as file:
            file.write(pattern(16 * MIB, 1))
        client = self.connect(self.linear(Tgtd(self, self.disk).uri()))
        expected = bytearray(pattern(16 * MIB, 1))
        client.trim(4 * MIB, 4 * MIB)
        client.zero(2 * MIB, 10 * MIB)
        expected[10 * MIB:12 * MIB] = bytes(2 * MIB)
        self.assertEqual(read_all(client, 16 * MIB), expected)
        self.assertEqual(extents(client), [(16 * MIB, 0)])

    def test_what_is_not_there_is_refused_with_its_name(self):
        target = Tgtd(self, self.disk)
        size = sectors(16 * MIB)
        self.assertIn("there is no such LUN", self.refuse(f"table=0 {size} linear {target.uri(lun=9)} 0"))
        self.assertIn("is no disk", self.refuse(f"table=0 {size} linear {target.uri(lun=0)} 0"))
        other = target.uri().replace(":disk", ":other")
        self.assertIn("there is no such target", self.refuse(f"table=0 {size} linear {other} 0"))
        target.kill()
        self.assertIn("Connection refused", self.refuse(f"table=0 {size} linear {target.uri()} 0"))

    def test_a_table_larger_than_the_lun_is_refused(self):
        target = Tgtd(self, self.disk)
        said = self.refuse(f"table=0 {sectors(16 * MIB) + 8} linear {target.uri()} 0")
        self.assertIn("is too small: it has 32768 sectors", said)

    def test_opening_a_hung_target_is_bounded(self):
        target = Tgtd(self, self.disk)
        target.freeze()
        began = time.monotonic()
        said = self.refuse(f"table=0 8 linear {target.uri('login_timeout=1s')} 0")
        self.assertIn("no answer to the login in time", said)
        self.assertLess(time.monotonic() - began, 30)

    def test_a_killed_target_that_comes_back_is_used_again(self):
        target = Tgtd(self, self.disk)
        client = self.connect(self.linear(target.uri()))
        client.pwrite(b"a" * MIB, 0)
        client.flush()
        target.kill()
        target.start()
        client.pwrite(b"b" * MIB, MIB)
        self.assertEqual(client.pread(2 * MIB, 0), b"a" * MIB + b"b" * MIB)

    def test_requests_wait_for_a_target_that_is_away_and_then_are_done(self):
        target = Tgtd(self, self.disk)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        target.kill()
        tags = [drive.start("write", i * 4096, 4096, i + 1) for i in range(32)]
        time.sleep(0.5)
        self.assertTrue(drive.none_yet("done"))
        target.start()
        self.assertEqual([drive.end(tag) for tag in tags], [["ok"]] * 32)
        for i in range(32):
            self.assertEqual(drive.run("read", i * 4096, 4096), ["ok", str(i + 1)])

    def test_a_flush_fails_once_when_the_target_may_have_lost_what_it_had_answered(self):
        target = Tgtd(self, self.disk)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        self.assertEqual(drive.run("flush"), ["ok"])
        target.kill()
        target.start()
        self.assertEqual(drive.run("flush"), ["ok"])  # nothing was left to lose
        self.assertEqual(drive.run("write", 0, 4096, 2), ["ok"])
        target.kill()
        target.start()
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "2"])
        self.assertEqual(drive.run("flush"), ["io"])
        self.assertEqual(drive.run("flush"), ["ok"])

    def test_a_frozen_target_fails_requests_at_their_time_and_serves_again(self):
        target = Tgtd(self, self.disk)
        drive = Drive(self, target.uri("timeout=1s&keepalive=10s&login_timeout=1s"))
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        target.freeze()
        began = time.monotonic()
        tags = [drive.start("write", i * 4096, 4096, 2) for i in range(8)]
        self.assertEqual([drive.end(tag, 30) for tag in tags], [["timed_out"]] * 8)
        self.assertGreater(time.monotonic() - began, 0.9)
        target.thaw()
        wait_until(lambda: drive.run("write", 0, 4096, 3) == ["ok"], "it serves again")
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "3"])

    def test_a_lun_that_has_shrunk_is_not_used_again(self):
        target = Tgtd(self, self.disk)
        drive = Drive(self, target.uri("timeout=3s"))
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        target.kill()
        os.truncate(self.disk, 8 * MIB)
        target.start()
        self.assertEqual(drive.run("read", 0, 4096), ["timed_out"])
        self.assertTrue(any("shrunk from 16777216 to 8388608" in line for line in drive.errors),
                        drive.errors)

    def test_a_lun_that_has_grown_is_served_at_its_size_until_the_table_is_loaded_again(self):
        target = Tgtd(self, self.disk)
        server = self.serve(f"device=d:0 {sectors(16 * MIB)} linear {target.uri()} 0",
                            control=True)
        client = self.connect(server, "d")
        client.pwrite(b"x" * 4096, 0)
        client.flush()
        target.kill()
        os.truncate(self.disk, 32 * MIB)
        target.start()
        self.assertEqual(client.pread(4096, 0), b"x" * 4096)
        table = f"0 {sectors(32 * MIB)} linear {target.uri()} 0"
        server.rpc("load", {"device": "d", "table": table})
        server.rpc("resume", {"device": "d"})
        self.assertEqual(self.connect(server, "d").get_size(), 32 * MIB)

    def test_a_swap_between_two_tables_of_one_lun_under_load(self):
        target = Tgtd(self, self.disk)
        server = self.serve(f"device=d:0 {sectors(16 * MIB)} linear {target.uri()} 0",
                            control=True)
        fio = self.spawn("fio", "--name=swap", "--ioengine=nbd", f"--uri={server.uri('d')}",
                         "--rw=randwrite", "--bs=4k", "--size=16m", "--verify=crc32c",
                         "--iodepth=8", "--time_based", "--runtime=4", "--verify_backlog=256",
                         stdout=-3, stderr=-3)
        for turn in range(3):
            time.sleep(1)
            depth = 16 + turn
            server.rpc("load", {"device": "d", "table":
                                f"0 {sectors(16 * MIB)} linear {target.uri(f'queue_depth={depth}')} 0"})
            server.rpc("resume", {"device": "d"})
        self.assertEqual(fio.wait(60), 0)
        wait_until(lambda: target.sessions() == 1, "only the live table has a session")


class Secrets(harness.Case):
    """CHAP, and where its passwords do not appear."""

    PASSWORD, OTHER = "open-sesame-12", "the-disk-itself"

    def setUp(self):
        super().setUp()
        self.disk = self.make_file("lun.img", 4 * MIB)
        self.target = Tgtd(self, self.disk)
        self.target.account("alice", self.PASSWORD)
        self.file = self.write_text("password", self.PASSWORD + "\n")
        os.chmod(self.file, 0o600)

    def try_open(self, parameters="", user=""):
        return Drive(self, self.target.uri(parameters, user=user)).opened

    def test_the_right_password_opens(self):
        self.assertEqual(self.try_open(user=f"alice%{self.PASSWORD}@"), f"opened {4 * MIB}")
        self.assertEqual(self.try_open(f"password_file={self.file}", user="alice@"),
                         f"opened {4 * MIB}")

    def test_a_wrong_password_is_told_as_that(self):
        said = self.try_open(user="alice%wrong-password@")
        self.assertIn("authentication failed: check user and password", said)
        self.assertNotIn("wrong-password", said)
        self.assertIn("alice%***@", said)

    def test_no_password_is_told_as_that(self):
        self.assertIn("refused", self.try_open())

    def test_mutual_chap(self):
        self.target.account("disk", self.OTHER, outgoing=True)
        proof = self.write_text("proof", self.OTHER)
        wrong = self.write_text("wrong", "somebody-else")
        for path in (proof, wrong):
            os.chmod(path, 0o600)
        self.assertIn("opened", self.try_open(
            f"password_file={self.file}&target_user=disk&target_password_file={proof}", "alice@"))
        self.assertIn("did not prove who it is", self.try_open(
            f"password_file={self.file}&target_user=disk&target_password_file={wrong}", "alice@"))
        self.assertIn("did not prove who it is", self.try_open(
            f"password_file={self.file}&target_user=other&target_password_file={proof}", "alice@"))

    def test_a_password_in_a_table_is_shown_nowhere_and_survives_a_restart(self):
        uri = self.target.uri(user=f"alice%{self.PASSWORD}@")
        state = self.path("state")
        os.mkdir(state)
        config = self.write_text("blockloom.toml", f'[server]\nstate_dir = "{state}"\n')
        server = self.serve(f"config={config}", control=True)
        table = f"0 {sectors(4 * MIB)} linear {uri} 0"
        server.rpc("create", {"name": "d", "table": table})
        client = self.connect(server, "d")
        client.pwrite(b"s" * 4096, 0)
        for verb in ("table", "status", "info", "list", "deps"):
            try:
                said = str(server.rpc(verb, {"device": "d"}))
            except harness.RpcError as error:
                said = str(error)
            self.assertNotIn(self.PASSWORD, said, verb)
        self.assertIn("alice%***@", str(server.rpc("table", {"device": "d"})))
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("load", {"device": "d", "table": f"0 {sectors(64 * MIB)} linear {uri} 0"})
        self.assertNotIn(self.PASSWORD, str(caught.exception))
        self.hang_up(client)
        self.assertEqual(server.terminate(), 0)
        self.assertNotIn(self.PASSWORD, server.log())
        again = self.serve(f"config={config}")
        self.assertEqual(self.connect(again, "d").pread(4096, 0), b"s" * 4096)


class Fences(harness.Case):
    """What a mirror relies on, seen from where it stands."""

    def setUp(self):
        super().setUp()
        self.disk = self.make_file("lun.img", 16 * MIB)
        self.target = Tgtd(self, self.disk)

    def controlled(self, parameters="keepalive=1s&login_timeout=1s", epoch=1):
        drive = Drive(self, self.target.uri(parameters))
        drive.take_over(epoch)
        return drive

    def test_there_is_no_session_without_a_proof(self):
        drive = Drive(self, self.target.uri())
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        self.assertEqual(drive.ask("control", "controlled"), "controlled")
        self.assertIn("belongs to a mirror already", drive.ask("control", "refused"))
        self.assertEqual(drive.run("write", 0, 4096, 2), ["io"])
        self.assertEqual(drive.session(1), "invalid")
        self.assertEqual(drive.fence(3, "everyone")[0], "given")
        self.assertEqual(drive.session(2), "invalid")
        self.assertEqual(drive.session(3), "ok")
        self.assertEqual(drive.run("write", 0, 4096, 3), ["ok"])
        self.assertEqual(drive.fence(2)[0], "impossible")
        self.assertEqual(drive.fence(4)[0], "given")
        self.assertEqual(drive.run("write", 0, 4096, 4), ["io"])
        self.assertEqual(drive.session(4), "ok")
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "3"])
        self.assertEqual(drive.quit(), 0)

    def test_a_frozen_target_gives_no_proof_and_its_late_write_does_not_survive(self):
        drive = self.controlled()
        self.assertEqual(drive.run("write", 0, 65536, 1), ["ok"])
        self.target.freeze()
        tags = [drive.start("write", 0, 65536, 2) for _ in range(8)]
        self.assertEqual(drive.fence(2, ms=1500)[0], "not_yet")
        self.assertEqual(drive.session(2, 500), "invalid")
        self.target.thaw()
        proof, reason = drive.fence(3)
        self.assertEqual(proof, "given", reason)
        ends = [drive.end(tag, 1)[0] for tag in tags]  # each has ended before the proof
        self.assertTrue(set(ends) <= {"ok", "timed_out", "cancelled"}, ends)
        self.assertEqual(drive.session(3), "ok")
        self.assertEqual(drive.run("write", 0, 65536, 3), ["ok"])
        self.assertEqual(drive.run("flush"), ["ok"])
        time.sleep(1)
        self.assertEqual(drive.run("read", 0, 65536), ["ok", "3"])
        self.assertEqual(self.read_file(self.disk, 0, 65536), b"\3" * 65536)

    def test_the_fence_of_a_live_session_waits_for_what_is_running(self):
        drive = self.controlled("")
        tags = [drive.start("write", i * MIB, MIB, 5) for i in range(8)]
        proof, reason = drive.fence(2)
        self.assertEqual(proof, "given", reason)
        ends = [drive.end(tag, 1)[0] for tag in tags]
        self.assertTrue(set(ends) <= {"ok", "cancelled", "io"}, ends)
        before = self.read_file(self.disk)
        time.sleep(0.5)
        self.assertEqual(self.read_file(self.disk), before)

    def test_a_killed_target_loses_the_link_and_is_fenced_when_it_is_back(self):
        drive = self.controlled()
        self.target.freeze()
        tags = [drive.start("write", i * 65536, 65536, 7) for i in range(16)]
        time.sleep(0.2)
        self.target.kill()
        drive.wait("lost")
        self.assertEqual({drive.end(tag, 1)[0] for tag in tags}, {"timed_out"})
        self.assertEqual(drive.run("read", 0, 4096), ["io"])
        self.assertEqual(drive.session(2, 500), "invalid")
        self.assertEqual(drive.fence(2, ms=1000)[0], "not_yet")
        self.target.start()
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual(drive.session(2), "ok")
        drive.wait("up 2")
        self.assertEqual(drive.run("write", 0, 4096, 8), ["ok"])

    def test_a_silent_target_loses_the_link(self):
        drive = self.controlled("keepalive=300ms&login_timeout=1s")
        self.target.freeze()
        self.assertIn("has not answered for", drive.wait("lost"))

    def test_nothing_reconnects_by_itself_under_control(self):
        drive = self.controlled()
        self.target.kill()
        drive.wait("lost")
        self.target.start()
        time.sleep(1)
        self.assertEqual(self.target.sessions(), 0)
        self.assertEqual(drive.run("write", 0, 4096, 1), ["io"])

    def test_what_was_not_sent_is_cancelled_as_such(self):
        drive = self.controlled("queue_depth=1&keepalive=30s")
        self.target.freeze()
        sent, queued = (drive.start("write", 0, 4096, 1), drive.start("write", 4096, 4096, 1))
        time.sleep(0.2)
        self.assertEqual(drive.ask(f"cancel {queued}", "cancel").split()[2], "never_sent")
        self.assertEqual(drive.end(queued), ["cancelled"])
        self.assertEqual(drive.ask(f"cancel {sent}", "cancel").split()[2], "asked")
        self.assertTrue(drive.none_yet("done"))
        self.target.thaw()
        self.assertIn(drive.end(sent), (["ok"], ["cancelled"]))
        self.assertEqual(drive.ask(f"cancel {sent}", "cancel").split()[2], "gone")
        self.assertEqual(drive.run("read", 4096, 4096), ["ok", "0"])

    def test_abandoning_gives_all_buffers_back_and_the_fence_still_proves(self):
        drive = self.controlled("keepalive=30s&login_timeout=1s")
        self.target.freeze()
        tags = [drive.start("write", i * 65536, 65536, 1) for i in range(16)]
        time.sleep(0.2)
        drive.ask("abandon", "abandoned")
        self.assertTrue({drive.end(tag, 5)[0] for tag in tags} <= {"timed_out", "cancelled"})
        self.target.thaw()
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual(drive.session(2), "ok")
        self.assertTrue(drive.none_yet("lost"))

    def test_the_next_process_fences_what_the_last_one_left(self):
        first = self.controlled()
        self.target.freeze()
        for i in range(16):
            first.start("write", i * 65536, 65536, 1)
        time.sleep(0.2)
        first.process.kill()
        first.process.wait()
        self.target.thaw()
        second = self.controlled(epoch=2)
        for i in range(16):
            self.assertEqual(second.run("write", i * 65536, 65536, 2), ["ok"])
        time.sleep(0.5)
        self.assertEqual(self.read_file(self.disk, 0, MIB), b"\2" * MIB)
        wait_until(lambda: self.target.sessions() == 1, "the old session is gone")

    def test_release_ends_everything_in_bounded_time(self):
        drive = self.controlled("keepalive=30s")
        self.target.freeze()
        tags = [drive.start("write", i * 65536, 65536, 1) for i in range(8)]
        began = time.monotonic()
        drive.ask("release", "released")
        self.assertLess(time.monotonic() - began, 10)
        for tag in tags:
            self.assertIn(drive.end(tag, 1)[0], ("timed_out", "cancelled", "shutdown"))
        self.assertEqual(drive.run("write", 0, 4096, 1), ["shutdown"])
        self.assertEqual(drive.quit(), 0)


if __name__ == "__main__":
    unittest.main()
