"""Epochs in export names, as any NBD client meets them: NAME;epoch=N bars, drains, is kept."""

import os
import time
import unittest

import harness
import legs
from harness import MIB, nbd

TABLE = "0 131072 linear mem:64M?name=store 0"
SLOW = "0 131072 linear fault:[write=delay:2s,x1]:mem:64M?name=store 0"


class EpochCase(harness.Case):
    def client(self, server, export):
        client = nbd.NBD()
        client.set_full_info(True)
        client.set_export_name(export)
        client.connect_unix(server.path)
        self.addCleanup(self.hang_up, client)
        return client

    def refused(self, server, export):
        with self.assertRaises(nbd.Error):
            self.client(server, export)
        return server.said()


class Epochs(EpochCase):
    def test_the_description_tells_the_epoch(self):
        server = legs.ours(self, TABLE)
        self.assertEqual(self.client(server, "vol;epoch=?").get_export_description(),
                         "blockloom-epoch: 0")
        self.assertEqual(self.client(server, "vol;epoch=17").get_export_description(),
                         "blockloom-epoch: 17")
        self.assertEqual(self.client(server, "vol;epoch=?").get_export_description(),
                         "blockloom-epoch: 17")
        with self.assertRaises(nbd.Error):
            self.client(server, "vol").get_export_description()

    def test_the_default_export_has_epochs_too(self):
        client = self.client(legs.ours(self, TABLE), ";epoch=3")
        self.assertEqual(client.get_export_description(), "blockloom-epoch: 3")

    def test_a_question_changes_nothing_and_cannot_write(self):
        server = legs.ours(self, TABLE)
        old = self.client(server, "vol;epoch=1")
        asked = self.client(server, "vol;epoch=?")
        self.assertTrue(asked.is_read_only())
        old.pwrite(b"\1" * 512, 0)
        self.assertEqual(asked.pread(512, 0), b"\1" * 512)

    def test_a_higher_epoch_bars_lower_ones_and_a_lower_one_is_refused(self):
        server = legs.ours(self, TABLE)
        old, other = self.client(server, "vol;epoch=1"), self.client(server, "vol;epoch=1")
        old.pwrite(b"\1" * 512, 0)
        other.pwrite(b"\1" * 512, 512)
        new = self.client(server, "vol;epoch=2")
        for client in (old, other):
            self.assert_errno("EPERM", client.pwrite, b"\2" * 512, 0)
            self.assert_errno("EPERM", client.pread, 512, 0)
            self.assert_errno("EPERM", client.flush)
            self.assert_errno("EPERM", client.trim, 512, 0)
            self.assert_errno("EPERM", client.zero, 512, 0)
        self.assertEqual(new.pread(512, 0), b"\1" * 512)
        new.pwrite(b"\2" * 512, 0)
        self.assertIn("epoch 1 is over: epoch 2 was opened", self.refused(server, "vol;epoch=1"))

    def test_clients_without_an_epoch_may_only_read_once_there_is_one(self):
        server = legs.ours(self, TABLE)
        plain = self.client(server, "vol")
        plain.pwrite(b"\1" * 512, 0)
        self.client(server, "vol;epoch=1")
        for client in (plain, self.client(server, "vol")):
            self.assertEqual(client.pread(512, 0), b"\1" * 512)
            client.flush()
            self.assert_errno("EPERM", client.pwrite, b"\2" * 512, 0)
            self.assert_errno("EPERM", client.zero, 512, 0)
            self.assert_errno("EPERM", client.trim, 512, 0)

    def test_the_handshake_waits_for_older_writes(self):
        server = legs.ours(self, SLOW)
        old = self.client(server, "vol")
        write = old.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\1" * 512)), 0)
        time.sleep(0.3)
        began = time.monotonic()
        new = self.client(server, "vol;epoch=1")
        self.assertGreater(time.monotonic() - began, 1)
        self.assertEqual(new.pread(512, 0), b"\1" * 512)
        new.pwrite(b"\2" * 512, 0)
        while not old.aio_command_completed(write):
            old.poll(100)
        self.assertEqual(new.pread(512, 0), b"\2" * 512)

    def test_a_client_that_died_is_waited_for_all_the_same(self):
        server = legs.ours(self, SLOW)
        old = nbd.NBD()
        old.set_export_name("vol;epoch=1")
        old.connect_unix(server.path)
        old.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\1" * 512)), 0)
        time.sleep(0.3)
        del old
        began = time.monotonic()
        new = self.client(server, "vol;epoch=2")
        self.assertGreater(time.monotonic() - began, 1)
        self.assertEqual(new.pread(512, 0), b"\1" * 512)

    def test_info_is_as_good_as_opening(self):
        """nbdkit opens a device for both, and cannot say for which."""
        server = legs.ours(self, TABLE)
        old = self.client(server, "vol;epoch=1")
        asking = nbd.NBD()
        asking.set_opt_mode(True)
        asking.connect_unix(server.path)
        asking.set_export_name("vol;epoch=2")
        asking.opt_info()
        self.assert_errno("EPERM", old.pread, 512, 0)
        asking.opt_go()
        asking.pwrite(bytes(512), 0)

    def test_epochs_are_never_listed(self):
        server = legs.ours(self, TABLE)
        self.client(server, "vol;epoch=7")
        listing, names = nbd.NBD(), []
        listing.set_opt_mode(True)
        listing.connect_unix(server.path)
        listing.opt_list(lambda name, _description: names.append(name) or 0)
        listing.opt_abort()
        self.assertEqual(names, ["vol"])

    def test_what_is_no_number_is_refused(self):
        server = legs.ours(self, TABLE)
        for text in ("", "0", "x", "-1", "1x", "18446744073709551616"):
            self.assertIn("expected a number from 1 on", self.refused(server, f"vol;epoch={text}"))
        self.assertIn("nobody", self.refused(server, "nobody;epoch=1"))
        highest = self.client(server, f"vol;epoch={(1 << 64) - 1}")
        highest.pwrite(bytes(512), 0)

    def test_epochs_outlive_kill_minus_9(self):
        image = self.make_file("a.img", 64 * MIB)
        server = legs.ours(self, f"0 131072 linear {image} 0")
        for epoch in range(1, 6):
            self.client(server, f"vol;epoch={epoch * 10}")
            server.restart()
            self.assertIn(f"epoch {epoch * 10 - 1} is over", self.refused(
                server, f"vol;epoch={epoch * 10 - 1}"))
            self.client(server, f"vol;epoch={epoch * 10}").pwrite(bytes(512), 0)

    def test_an_epoch_is_stored_before_the_handshake_ends(self):
        """The state's files say it at the moment when the client has its answer."""
        server = legs.ours(self, TABLE)
        folder = next(w for w in server.command if w.startswith("state=")).removeprefix("state=")
        for epoch in (3, 4, 5):
            self.client(server, f"vol;epoch={epoch}")
            texts = [self.read_file(os.path.join(folder, name)) for name in os.listdir(folder)]
            self.assertTrue(any(f'"epoch": {epoch}'.encode() in text for text in texts), texts)

    def test_without_a_state_directory_epochs_are_refused(self):
        server = legs.ours(self, TABLE, state=False)
        self.assertIn("start the server with a state directory",
                      self.refused(server, "vol;epoch=1"))
        self.client(server, "vol;epoch=?")

    def test_an_epoch_is_refused_while_a_write_may_still_land_on_a_leg_of_the_device(self):
        below = legs.nbdkit(self, "memory", "64M")
        uri = below.uri(timeout_ms=500)
        server = legs.ours(self, f"0 131072 linear {uri} 0",
                           "device=above:0 131072 linear dev:vol 0",
                           "device=beside:0 8 linear mem:4096 0")
        client = self.client(server, "vol")
        client.pwrite(b"\1" * 512, 0)
        self.client(server, "vol;epoch=1").pwrite(b"\2" * 512, 0)  # nothing is late
        below.stop()
        late = self.client(server, "vol;epoch=2")
        self.assert_errno("EIO", late.pwrite, b"\3" * 512, 0)
        below.go_on()
        said = self.refused(server, "vol;epoch=3")
        self.assertIn("1 write to leg", said)
        self.assertIn("may still land", said)
        self.assertIn("may still land", self.refused(server, "above;epoch=1"))
        self.client(server, "beside;epoch=1")
        # The bar holds all the same, and a question is no promise.
        self.assert_errno("EPERM", late.pwrite, b"\3" * 512, 0)
        self.client(server, "vol;epoch=?")
        below.restart()
        server.restart()
        self.client(server, "vol;epoch=3").pwrite(b"\4" * 512, 0)

    def test_every_device_has_its_own(self):
        server = legs.ours(self, TABLE, "device=other:0 8 linear mem:4096 0")
        self.client(server, "vol;epoch=9")
        other = self.client(server, "other")
        other.pwrite(bytes(512), 0)
        self.client(server, "other;epoch=1")

    def test_epochs_race(self):
        """Many open at once: the highest wins, and only what it let through is there."""
        server = legs.ours(self, TABLE)
        clients = {}
        for epoch in (5, 3, 9, 7, 8, 10, 2):
            try:
                clients[epoch] = self.client(server, f"vol;epoch={epoch}")
            except nbd.Error:
                pass
        self.assertEqual(sorted(clients), [5, 9, 10])
        clients[10].pwrite(bytes(512), 0)
        self.assert_errno("EPERM", clients[9].pwrite, bytes(512), 0)


if __name__ == "__main__":
    unittest.main()
