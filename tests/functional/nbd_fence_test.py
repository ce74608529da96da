"""An NBD leg as a mirror has it: fences, sessions, links that end, requests that are taken back.
Rules Z3, S1, S2, B1 and invariant I7 of the mirror protocol, with real servers behind the leg."""

import time
import unittest

import harness
import legs
from harness import MIB
from legs import Driver

TABLE = "0 131072 linear mem:64M?name=store 0"


class OwnServer(harness.Case):
    """Blockloom as the leg's server: the fence is an epoch."""

    def test_fence_session_and_data(self):
        server = legs.ours(self, TABLE)
        driver = Driver(self, server.uri("vol"))
        self.assertEqual(driver.opened, f"ok {64 * MIB}")
        driver.begin(1, "everyone")
        driver.expect("up 1")
        self.assertIn("connected (epoch 1)", driver.ask("state"))
        driver.write("w", 8192, 4096, 7)
        self.assertEqual(driver.read(8192), 7)
        driver.say("flush f")
        driver.expect("end f ok")
        driver.say("zero z 8192 4096")
        driver.expect("end z ok")
        self.assertEqual(driver.read(8192), 0)

    def test_no_io_before_a_session_and_no_session_before_a_proof(self):
        driver = Driver(self, legs.ours(self, TABLE).uri("vol"))
        driver.control()
        driver.say("write w 0 4096 1")
        driver.expect("end w io")
        driver.say("session 1 1000")
        self.assertIn("epoch 1 has no fence's proof", driver.expect("session 1 invalid"))
        driver.fence(2, "everyone")
        driver.say("session 1 1000")
        driver.expect("session 1 invalid")
        driver.session(2)
        driver.say("session 2 1000")  # the proof is used up
        driver.expect("session 2 invalid")

    def test_epochs_only_rise(self):
        driver = Driver(self, legs.ours(self, TABLE).uri("vol")).begin(5, "everyone")
        for epoch in (4, 5):
            driver.say(f"fence {epoch} own 1000")
            self.assertIn("expected 6 or more", driver.expect(f"fence {epoch} impossible"))
        driver.fence(6, "everyone")
        driver.session(6)

    def test_a_master_is_alone(self):
        driver = Driver(self, legs.ours(self, TABLE).uri("vol"))
        driver.control()
        self.assertIn("another master", driver.ask("control", None))

    def test_who_fenced_later_wins(self):
        server = legs.ours(self, TABLE)
        first = Driver(self, server.uri("vol")).begin(3, "everyone")
        first.write("a", 0, 4096, 1)
        second = Driver(self, server.uri("vol")).begin(4, "everyone")
        second.write("b", 0, 4096, 2)
        first.say("write c 0 4096 3")
        first.expect("end c permission")
        first.say("read d 0 4096")
        first.expect("end d permission")
        first.say("fence 3 everyone 2000")
        first.expect("fence 3 impossible")
        # Its next idea of an epoch is not high enough either, and it hears who was there.
        third = Driver(self, server.uri("vol"))
        third.control()
        third.say("fence 3 everyone 5000")
        self.assertIn("another has fenced with epoch 4", third.expect("fence 3 impossible"))
        self.assertEqual(second.read(0), 2)

    def test_a_fence_waits_for_what_the_server_has_in_flight(self):
        server = legs.ours(self, "0 131072 linear fault:[write=delay:3s,x1]:mem:64M?name=store 0")
        driver = Driver(self, server.uri("vol")).begin(1, "everyone")
        driver.write("late", 0, 4096, 1, wait=False)
        time.sleep(0.3)
        began = time.monotonic()
        driver.fence(2, "everyone")
        self.assertGreater(time.monotonic() - began, 2)
        self.assertIn(driver.next_line("end late"), ("end late ok", "end late timed_out"))
        driver.session(2)
        driver.write("new", 0, 4096, 2)
        self.assertEqual(driver.read(0), 2)

    def test_without_a_fence_the_late_write_would_win(self):
        """The hazard itself (H1), so that the test before shows something."""
        server = legs.ours(self, "0 131072 linear fault:[write=delay:2s,x1]:mem:64M?name=store 0")
        first = harness.nbd.NBD()
        first.set_export_name("vol")
        first.connect_unix(server.path)
        first.aio_pwrite(harness.nbd.Buffer.from_bytearray(bytearray(b"\1" * 4096)), 0)
        time.sleep(0.3)
        del first
        second = harness.nbd.NBD()
        second.set_export_name("vol")
        second.connect_unix(server.path)
        second.pwrite(b"\2" * 4096, 0)
        self.assertEqual(second.pread(512, 0)[:1], b"\2")
        harness.wait_until(lambda: second.pread(512, 0)[:1] == b"\1", "the old write lands over the new")

    def test_the_late_write_of_a_stopped_server_does_not_survive(self):
        """The server is stopped with writes in flight, the mirror fences, the server goes on."""
        server = legs.ours(self, TABLE)
        driver = Driver(self, server.uri("vol")).begin(1, "everyone")
        server.stop()
        for i in range(8):
            driver.write(f"old{i}", i * 4096, 4096, 1, wait=False)
        driver.say("fence 2 everyone 1000")
        self.assertIn("it does not answer", driver.expect("fence 2 not_yet"))
        driver.say("fence 2 everyone 30000")
        time.sleep(0.5)
        server.go_on()
        driver.expect("fence 2 given")
        for i in range(8):
            driver.next_line(f"end old{i} ")  # before the proof, whatever the end was
        driver.session(2)
        for i in range(8):
            driver.write(f"new{i}", i * 4096, 4096, 2)
        time.sleep(1)
        for i in range(8):
            self.assertEqual(driver.read(i * 4096), 2)

    def test_a_killed_server_is_fenced_when_it_is_back(self):
        image = self.make_file("leg.img", 64 * MIB)
        server = legs.ours(self, f"0 131072 linear fault:[write=delay:5s,x1]:{image} 0")
        driver = Driver(self, server.uri("vol")).begin(1, "everyone")
        driver.write("lost", 0, 4096, 1, wait=False)
        time.sleep(0.3)
        server.kill()
        driver.expect("end lost timed_out")
        driver.next_line("lost ")
        driver.say("write w 0 4096 2")
        driver.expect("end w io")
        driver.say("fence 2 everyone 1000")
        driver.expect("fence 2 not_yet")
        server.start()
        driver.fence(2, "everyone")
        driver.session(2)
        driver.write("w", 0, 4096, 2)
        self.assertEqual(driver.read(0), 2)

    def test_abandon_gives_the_buffers_back_and_the_epoch_still_proves(self):
        server = legs.ours(self, TABLE)
        driver = Driver(self, server.uri("vol")).begin(1, "everyone")
        server.stop()
        driver.write("old", 0, 4096, 1, wait=False)
        driver.ask("abandon")
        driver.expect("end old timed_out", seconds=5)
        server.go_on()
        driver.fence(2, "everyone")
        driver.session(2)

    def test_connections_share_an_epoch(self):
        server = legs.ours(self, TABLE)
        driver = Driver(self, server.uri("vol", connections=4)).begin(1, "everyone")
        for i in range(64):
            driver.write(f"w{i}", i * 4096, 4096, i, wait=False)
        for i in range(64):
            driver.expect(f"end w{i} ok")
        driver.fence(2, "everyone")
        driver.session(2)
        for i in range(64):
            self.assertEqual(driver.read(i * 4096), i)

    def test_a_server_without_a_state_cannot_keep_epochs(self):
        """It refuses them, says why, and proves nothing; what the link itself proves is enough."""
        server = legs.ours(self, TABLE, state=False)
        driver = Driver(self, server.uri("vol"))
        driver.control()
        driver.say("fence 1 everyone 1500")
        driver.expect("fence 1 not_yet")
        self.assertIn("start the server with a state directory", server.said())


class OtherServer(harness.Case):
    """Any server: the fence is to have every write answered."""

    def test_an_idle_leg_is_fenced_at_once_and_again_when_it_died_idle(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        driver.write("w", 0, 4096, 1)
        self.assertEqual(driver.read(0), 1)
        server.restart()
        driver.next_line("lost ")
        driver.fence(2)
        driver.session(2)
        self.assertEqual(driver.read(0), 0)

    def test_every_name_is_opened_and_none_is_a_proof(self):
        """nbdkit's plugins open whatever export they are asked for."""
        driver = Driver(self, legs.nbdkit(self, "memory", "64M").uri("vol"))
        driver.control()
        driver.say("fence 1 everyone 5000")
        self.assertIn("knows no epochs", driver.expect("fence 1 impossible"))
        driver.fence(2, "own")
        driver.session(2)

    def test_drain(self):
        server = legs.nbdkit(self, "--filter=delay", "memory", "64M", "wdelay=2")
        driver = Driver(self, server.uri()).begin(1)
        driver.write("w", 0, 4096, 1, wait=False)
        time.sleep(0.2)
        began = time.monotonic()
        driver.fence(2)
        self.assertGreater(time.monotonic() - began, 1)
        driver.expect("end w ok")
        driver.session(2)
        self.assertEqual(driver.read(0), 1)

    def test_the_late_write_of_a_stopped_server_is_drained(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        server.stop()
        driver.write("old", 0, 4096, 1, wait=False)
        driver.say("fence 2 own 500")
        self.assertIn("has not answered all writes", driver.expect("fence 2 not_yet"))
        self.assertIn("1 request unanswered", driver.ask("state"))
        driver.say("write barred 0 4096 9")
        driver.expect("end barred io")
        driver.say("fence 2 own 30000")
        time.sleep(0.3)
        server.go_on()
        driver.expect("fence 2 given")
        driver.expect("end old ok")
        driver.session(2)
        driver.write("new", 0, 4096, 2)
        time.sleep(0.5)
        self.assertEqual(driver.read(0), 2)

    def test_a_dead_link_with_writes_unanswered_has_no_proof(self):
        server = legs.nbdkit(self, "--filter=delay", "memory", "64M", "wdelay=30")
        driver = Driver(self, server.uri()).begin(1)
        driver.write("lost", 0, 4096, 1, wait=False)
        time.sleep(0.2)
        server.kill()
        driver.expect("end lost timed_out")
        driver.next_line("lost ")
        server.start()
        driver.say("fence 2 own 5000")
        self.assertIn("1 writes unanswered", driver.expect("fence 2 impossible"))
        driver.say("session 2 1000")
        driver.expect("session 2 invalid")

    def test_a_read_that_is_lost_keeps_nothing_open(self):
        server = legs.nbdkit(self, "--filter=delay", "memory", "64M", "rdelay=30")
        driver = Driver(self, server.uri()).begin(1)
        driver.say("read r 0 4096")
        time.sleep(0.2)
        server.kill()
        driver.next_line("end r timed_out")
        driver.next_line("lost ")
        server.start()
        driver.fence(2)
        driver.session(2)

    def test_abandon_spends_the_drain(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        server.stop()
        driver.write("old", 0, 4096, 1, wait=False)
        driver.say("fence 2 own 300")
        driver.expect("fence 2 not_yet")
        driver.ask("abandon")
        driver.expect("end old timed_out", seconds=5)
        driver.say("fence 2 own 300")
        driver.expect("fence 2 impossible")
        server.go_on()

    def test_cancel_takes_back_what_was_not_sent(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        server.stop()
        for i in range(20):
            driver.write(f"w{i}", i * MIB, MIB, 1, wait=False)
        answers = []
        for i in range(20):
            driver.say(f"cancel w{i}")
            answers.append(driver.next_line(f"cancel w{i} ").split()[2])
        self.assertEqual(answers[0], "unknown")
        self.assertEqual(answers[-1], "never_sent")
        server.go_on()
        for i, answer in enumerate(answers):
            driver.expect(f"end w{i} " + ("cancelled" if answer == "never_sent" else "ok"))
        driver.say("cancel w0")
        driver.expect("cancel w0 gone")
        for i, answer in enumerate(answers):
            self.assertEqual(driver.read(i * MIB), 0 if answer == "never_sent" else 1)

    def test_a_cut_link_is_told_and_nothing_reconnects_by_itself(self):
        server = legs.nbdkit(self, "memory", "64M", tcp=True)
        cable = legs.Cable(self, server.port)
        driver = Driver(self, f"nbd://127.0.0.1:{cable.port}/").begin(1)
        driver.expect("up 1")
        driver.write("w", 0, 4096, 1)
        cable.cut()
        driver.next_line("lost ")
        cable.mend()
        driver.nothing("up", 1)
        driver.say("write x 0 4096 1")
        driver.expect("end x io")
        driver.fence(2)
        driver.session(2)
        self.assertEqual(driver.read(0), 1)

    def test_a_session_is_tried_until_the_server_is_there(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        server.kill()
        driver.next_line("lost ")
        driver.fence(2)
        driver.say("session 2 500")
        driver.next_line("session 2 ")
        driver.say("session 2 30000")
        time.sleep(0.3)
        server.start()
        driver.expect("session 2 ok")

    def test_a_server_that_came_back_smaller_is_refused(self):
        server = legs.nbdkit(self, "memory", "64M")
        driver = Driver(self, server.uri()).begin(1)
        server.command[-1] = "32M"
        server.restart()
        driver.next_line("lost ")
        driver.fence(2)
        driver.say("session 2 5000")
        self.assertIn(f"shrunk from {64 * MIB} to {32 * MIB}", driver.next_line("session 2 io"))

    def test_the_leg_is_let_go_with_requests_in_flight(self):
        for verb in ("release", "close"):
            server = legs.nbdkit(self, "memory", "64M")
            driver = Driver(self, server.uri()).begin(1)
            server.stop()
            for i in range(4):
                driver.write(f"w{i}", 0, 4096, 1, wait=False)
            driver.ask(verb)
            for i in range(4):
                driver.expect(f"end w{i} timed_out", seconds=1)
            server.go_on()


@unittest.skipUnless(legs.have("qemu-nbd"), "qemu-nbd is missing (package qemu-utils)")
class Qemu(harness.Case):
    def test_drain_of_a_stopped_qemu_nbd(self):
        server = legs.qemu_nbd(self, self.make_file("leg.img", 64 * MIB))
        driver = Driver(self, server.uri()).begin(1)
        server.stop()
        driver.write("old", 0, 4096, 1, wait=False)
        driver.say("fence 2 own 300")
        driver.expect("fence 2 not_yet")
        server.go_on()
        driver.fence(2)
        driver.expect("end old ok")
        driver.session(2)
        driver.write("new", 0, 4096, 2)
        self.assertEqual(driver.read(0), 2)

    def test_a_server_that_takes_one_client_at_a_time(self):
        server = legs.qemu_nbd(self, self.make_file("leg.img", 64 * MIB), "-e", "1")
        driver = Driver(self, server.uri(connect_timeout_ms=1000)).begin(1)
        driver.write("w", 0, 4096, 1)
        driver.fence(2)
        driver.session(2)
        self.assertEqual(driver.read(0), 1)


@unittest.skipUnless(legs.have("nbd-server"), "nbd-server is missing (package nbd-server)")
class NbdServer(harness.Case):
    def test_drain_of_a_stopped_nbd_server(self):
        server = legs.nbd_server(self, self.make_file("leg.img", 64 * MIB))
        driver = Driver(self, server.uri("vol")).begin(1)
        server.stop()
        driver.write("old", 0, 4096, 1, wait=False)
        driver.say("fence 2 own 300")
        driver.expect("fence 2 not_yet")
        server.go_on()
        driver.fence(2)
        driver.expect("end old ok")
        driver.session(2)
        driver.write("new", 0, 4096, 2)
        self.assertEqual(driver.read(0), 2)


if __name__ == "__main__":
    unittest.main()
