"""What a mirror asks of its legs before it starts: a proof that nothing of an earlier process can
still land (B1), or a person's word for it."""

import unittest

import harness
from harness import MIB, RpcError, sectors, wait_until
from mirror_legs import FileLeg, Iscsi, Mirror, Nbdkit, Own

SIZE = 16 * MIB
FEATURES = "timeout_ms 2000 fence_delay_ms 200 clean_delay_ms 200"


class CoreMirror(Mirror):
    """Without a record: each start is the first in its own eyes."""

    def table(self):
        legs = " ".join(f"{leg.uri()} 0" for leg in self.legs)
        words = self.features.split()
        return (f"0 {sectors(self.size)} mirror core 2 {self.REGION} {self.sync} {len(self.legs)} "
                f"{legs} {len(words)} {self.features}")


class Starts(harness.Case):
    def loaded(self, server, table):
        server.rpc("load", {"device": "m", "table": table})
        server.rpc("resume", {"device": "m"})

    def test_a_core_log_over_our_own_servers_starts_again_after_a_kill(self):
        mirror = CoreMirror(self, [Own(self, SIZE), Own(self, SIZE)], FEATURES)
        for round_number in range(1, 4):
            client = self.connect(mirror.server, "m")
            client.pwrite(bytes([round_number]) * MIB, 0)
            client.flush()
            mirror.server.process.kill()
            mirror.server.process.wait()
            mirror.start()
            client = self.connect(mirror.server, "m")
            self.assertEqual(client.pread(MIB, 0), bytes([round_number]) * MIB)
            self.hang_up(client)
            mirror.wait_whole()

    def test_a_core_log_over_servers_without_epochs_is_refused_and_says_what_to_do(self):
        plain = self.make_file("plain.img", SIZE)
        server = self.serve(f"device=m:0 {sectors(SIZE)} linear {plain} 0", control=True)
        legs = [Nbdkit(self, SIZE), Nbdkit(self, SIZE)]
        words = " ".join(f"{leg.uri()} 0" for leg in legs)
        line = f"0 {sectors(SIZE)} mirror core 2 128 nosync 2 {words}"
        with self.assertRaises(RpcError) as caught:
            self.loaded(server, line)
        said = str(caught.exception)
        for word in ("knows no epochs", "force", "disk log", legs[0].uri(), legs[1].uri()):
            self.assertIn(word, said)
        # What was there goes on, and a person's word is enough.
        client = self.connect(server, "m")
        client.pwrite(b"p" * MIB, 0)
        self.loaded(server, line + " 1 force")
        client.pwrite(b"m" * MIB, 0)
        client.flush()
        self.hang_up(client)
        for leg in legs:
            self.assertEqual(leg.content()[:MIB], b"m" * MIB)

    def test_a_leg_that_a_person_failed_stays_out_over_a_restart(self):
        mirror = Mirror(self, [FileLeg(self, SIZE), FileLeg(self, SIZE)], FEATURES)
        mirror.server.rpc("leg_fail", {"device": "m", "leg": "1"})
        client = self.connect(mirror.server, "m")
        client.pwrite(b"1" * MIB, 0)
        client.flush()
        for kill in (False, True):
            if kill:
                mirror.server.process.kill()
                mirror.server.process.wait()
            else:
                self.assertEqual(mirror.server.terminate(), 0)
            mirror.start()
            client = self.connect(mirror.server, "m")
            self.assertEqual(client.pread(MIB, 0), b"1" * MIB)
            self.assertEqual(mirror.health(), "AD")
            self.assertTrue(mirror.details()["legs"][1]["failed_by_hand"])
        mirror.server.rpc("leg_readd", {"device": "m", "leg": "1"})
        mirror.wait_whole()
        client.flush()
        mirror.check_equal()

    def test_a_core_log_starts_with_the_leg_that_needs_no_proof_and_takes_a_word_for_the_other(self):
        mirror = CoreMirror(self, [FileLeg(self, SIZE), Nbdkit(self, SIZE)], FEATURES)
        client = self.connect(mirror.server, "m")
        client.pwrite(b"1" * MIB, 0)
        mirror.wait_health(lambda health: health == "AD")
        self.assertEqual(mirror.details()["legs"][1]["state"], "down_unfenced")
        mirror.server.rpc("leg_vouch", {"device": "m", "leg": "1"})
        mirror.wait_whole()
        client.flush()
        mirror.check_equal()


class Chap(Iscsi):
    """tgtd with an account."""

    def __init__(self, case, size, user):
        self.user = user
        super().__init__(case, size)
        self.target.account(*user)

    def uri(self):
        name, password = self.user
        return self.target.uri("keepalive=1s&login_timeout=2s", user=f"{name}%{password}@")


class OtherWays(harness.Case):
    """The same storage by another URI is no other leg."""

    def load(self, mirror):
        mirror.server.rpc("load", {"device": "m", "table": mirror.table()})
        mirror.server.rpc("resume", {"device": "m"})

    def check_kept(self, mirror, change, shown):
        client = self.connect(mirror.server, "m")
        client.pwrite(b"1" * 4 * MIB, 0)
        client.flush()
        wait_until(lambda: mirror.details()["dirty_regions"] == 0, "clean regions")
        epoch = mirror.details()["legs"][1]["epoch"]
        change()
        self.load(mirror)
        client.pwrite(b"2" * 65536, MIB)
        mirror.wait_whole()
        details = mirror.details()
        self.assertIn(shown, details["legs"][1]["uri"])
        self.assertGreater(details["legs"][1]["epoch"], epoch,
                           mirror.server.log())  # it was fenced, and is the new one
        self.assertLess(details["resync"]["bytes_done"], MIB)
        client.flush()
        mirror.check_equal()
        self.hang_up(client)
        # And the record knows it too.
        self.assertEqual(mirror.server.terminate(), 0)
        mirror.start()
        mirror.wait_whole()
        self.assertEqual(mirror.details()["resync"]["bytes_done"], 0)

    def test_another_password(self):
        leg = Chap(self, SIZE, ("alice", "open-sesame-1"))
        mirror = Mirror(self, [FileLeg(self, SIZE), leg], FEATURES)
        mirror.wait_whole()

        def change():
            # tgt asks for the first account that is bound.
            leg.target.admin("--op", "delete", "--mode", "account", "--user", "alice")
            leg.user = ("bob", "another-word-2")
            leg.target.account(*leg.user)
        self.check_kept(mirror, change, "bob%***@")
        self.assertNotIn("another-word", mirror.server.log() + str(mirror.details()))

    def test_another_timeout(self):
        leg = Nbdkit(self, SIZE)
        mirror = Mirror(self, [FileLeg(self, SIZE), leg], FEATURES)
        mirror.wait_whole()
        plain = leg.uri()

        def change():
            leg.uri = lambda: plain + "?connect_timeout_ms=4000"
        self.check_kept(mirror, change, "connect_timeout_ms=4000")

    def test_a_password_that_is_wrong_leaves_the_old_session_as_it_is(self):
        leg = Chap(self, SIZE, ("alice", "open-sesame-1"))
        mirror = Mirror(self, [FileLeg(self, SIZE), leg], FEATURES)
        mirror.wait_whole()
        leg.user = ("alice", "wrong-word-9")
        self.load(mirror)
        self.assertEqual(mirror.health(), "AA")
        wait_until(lambda: "goes on as it is" in mirror.server.log(), "it says so")
        self.assertNotIn("wrong-word", mirror.server.log())


if __name__ == "__main__":
    unittest.main()
