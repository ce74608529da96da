"""SIGHUP: what changed in the configuration is applied, clients stay, and a bad file changes
nothing."""

import signal
import threading
import time

import daemon
import harness
from harness import MIB, pattern


class Load(threading.Thread):
    """Writes and reads back over one connection until it is told to stop."""

    def __init__(self, client):
        super().__init__()
        self.client, self.error, self.rounds, self.stopping = client, None, 0, False
        self.start()

    def run(self):
        try:
            while not self.stopping:
                offset = self.rounds % 64 * 4096
                data = pattern(4096, self.rounds)
                self.client.pwrite(data, offset)
                if self.client.pread(4096, offset) != data:
                    raise AssertionError(f"other bytes came back in round {self.rounds}")
                self.rounds += 1
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def more(self, rounds=20):
        """Waits until it has done some more."""
        goal = self.rounds + rounds
        harness.wait_until(lambda: self.rounds >= goal or self.error, "rounds of I/O")
        if self.error:
            raise self.error

    def stop(self):
        self.stopping = True
        self.join(harness.PATIENCE)
        if self.error:
            raise self.error


class Hangup(daemon.Case):
    def setUp(self):
        super().setUp()
        self.server = None
        self.disks = [self.make_file(f"disk{i}", MIB) for i in range(2)]

    def serve_text(self, text, **settings):
        self.server = self.start_daemon(text, **settings)
        return self.server

    def rewrite(self, text, **settings):
        self.configure(self.server.folder, text, **settings)

    def test_a_changed_table_is_swapped_under_load(self):
        both = ("0 1024 linear {0} 0\n1024 1024 linear {1} 0",
                "0 1024 linear {0} 0\n1024 512 linear {1} 0\n1536 512 linear {1} 512")
        both = [text.format(*self.disks) for text in both]
        server = self.serve_text(daemon.device("a", both[0]))
        load = Load(self.connect(server, "a"))
        try:
            for i in range(1, 11):
                load.more()
                self.rewrite(daemon.device("a", both[i % 2]))
                self.assertEqual(server.hang_up(), "serving 1 device; last reload: 0 created, "
                                 "1 swapped, 0 removed, 0 unchanged")
            load.more()
        finally:
            load.stop()

    def test_devices_come_and_go(self):
        server = self.serve_text(daemon.device("a", "0 8 zero") + daemon.device("b", "0 8 zero"))
        self.rewrite(daemon.device("b", "0 8 zero") + daemon.device("c", "0 16 zero"))
        self.assertEqual(server.hang_up(), "serving 2 devices; last reload: 1 created, 0 swapped, "
                         "1 removed, 1 unchanged")
        self.assertEqual(self.connect(server, "c").get_size(), 16 * 512)
        self.connect(server, "b")
        with self.assertRaises(harness.nbd.Error):
            self.connect(server, "a")

    def test_a_removed_device_serves_the_client_that_has_it_open(self):
        kept = daemon.device("kept", "0 8 zero")
        server = self.serve_text(kept + daemon.device("a", "0 2048 linear mem:1M 0"))
        client = self.connect(server, "a")
        client.pwrite(pattern(512, 1), 0)
        self.rewrite(kept)
        server.hang_up()
        self.assertEqual(client.pread(512, 0), pattern(512, 1))
        self.hang_up(client)

        def gone():
            try:
                probe = self.connect(server, "a")
            except harness.nbd.Error:
                return True
            self.hang_up(probe)  # or it would be the client that keeps the device
            return False
        harness.wait_until(gone, "the device's end")
        self.connect(server, "kept")

    def refused_reload(self, text, *expected):
        server = self.serve_text(daemon.device("a", f"0 2048 linear {self.disks[0]} 0"))
        load = Load(self.connect(server, "a"))
        try:
            load.more()
            self.rewrite(text)
            status = server.hang_up()
            self.assertTrue(status.startswith("serving 1 device; reload failed: "), status)
            for part in expected:
                self.assertIn(part.replace("FOLDER", server.folder), server.log())
            load.more()
        finally:
            load.stop()
        self.connect(server, "a").pread(512, 0)
        with self.assertRaises(harness.nbd.Error):
            self.connect(server, "b")
        # And a good file is taken after it.
        self.rewrite(daemon.device("a", f"0 2048 linear {self.disks[0]} 0") +
                     daemon.device("b", "0 8 zero"))
        self.assertTrue(server.hang_up().startswith("serving 2 devices; last reload: 1 created"))
        self.connect(server, "b")

    def test_a_file_that_does_not_parse_changes_nothing(self):
        self.refused_reload(daemon.device("b", "0 8 zero") + "read_only = maybe\n",
                            "the old configuration stays", "FOLDER/blockloom.toml:11:13")

    def test_an_unknown_key_changes_nothing(self):
        self.refused_reload(daemon.device("b", "0 8 zero", sice=3),
                            "FOLDER/blockloom.toml:11:1: unknown key 'sice' in device")

    def test_a_missing_leg_changes_nothing(self):
        self.refused_reload(daemon.device("b", "0 8 zero") +
                            daemon.device("c", "0 8 linear /no/such/leg 0"),
                            "FOLDER/blockloom.toml:14:9: device 'c'", "/no/such/leg")

    def test_an_empty_file_changes_nothing(self):
        server = self.serve_text(daemon.device("a", "0 8 zero") + daemon.device("b", "0 8 zero"))
        with open(server.config, "w", encoding="utf-8"):
            pass  # as an editor or a full disk leaves it
        self.assertIn("is empty, which would remove 2 of 2 configured devices", server.hang_up())
        self.connect(server, "a")
        with open(server.config, "w", encoding="utf-8") as file:
            file.write("[server]\n")  # meant
        self.assertIn("2 removed", server.hang_up())

    def test_a_missing_file_changes_nothing(self):
        server = self.serve_text(daemon.device("a", "0 8 zero"))
        harness.os.unlink(server.config)
        self.assertIn("No such file", server.hang_up())
        self.connect(server, "a")

    def test_a_public_listener_is_refused_then_too(self):
        server = self.serve_text(daemon.device("a", "0 8 zero"))
        self.rewrite(daemon.device("a", "0 16 zero"), listen=["tcp:0.0.0.0:1"])
        self.assertIn("is public", server.hang_up())
        self.assertEqual(self.connect(server, "a").get_size(), 8 * 512)

    def test_what_needs_a_restart_is_named(self):
        server = self.serve_text(daemon.device("a", "0 8 zero"))
        self.rewrite(daemon.device("a", "0 8 zero") + '[limits]\nqueue_requests = 5\n',
                     listen=["tcp:127.0.0.1:1"], more='threads = 3\ndefault_device = "a"')
        server.hang_up()
        log = server.log()
        for name in ("server.listen", "server.threads", "limits"):
            self.assertIn(f"{name} changed: it needs a restart to take effect", log)
        self.assertNotIn("default_device changed", log)

    def test_the_default_device_follows(self):
        text = daemon.device("a", "0 8 zero") + daemon.device("b", "0 16 zero")
        server = self.serve_text(text, more='default_device = "a"')

        def default_export(name):
            return server.rpc("attach_help", {"device": name})["default_export"]
        self.assertEqual(self.connect(server, "").get_size(), 8 * 512)
        self.assertEqual((default_export("a"), default_export("b")), (True, False))
        self.rewrite(text, more='default_device = "b"')
        server.hang_up()
        self.assertEqual(self.connect(server, "").get_size(), 16 * 512)
        self.assertEqual((default_export("a"), default_export("b")), (False, True))

    def test_a_flood_of_signals_harms_nobody(self):
        server = self.serve_text(daemon.device("a", f"0 2048 linear {self.disks[0]} 0"))
        load = Load(self.connect(server, "a"))
        try:
            for i in range(300):
                if i % 50 == 0:
                    self.rewrite(daemon.device("a", f"0 2048 linear {self.disks[i // 50 % 2]} 0")
                                 if i // 50 % 2 == 0 else "nonsense")
                server.signal(signal.SIGHUP)
                time.sleep(0.001)
            load.more(50)
        finally:
            load.stop()
        self.assertEqual(server.terminate(), 0)

    def test_a_stop_during_reloads_is_clean(self):
        server = self.serve_text(daemon.device("a", "0 8 zero"))
        for i in range(20):
            self.rewrite(daemon.device("a", f"0 {8 + i} zero"))
            server.signal(signal.SIGHUP)
        self.assertEqual(server.terminate(), 0)

    def test_without_a_configuration_the_signal_ends_nbdkit_as_ever(self):
        server = self.serve("table=0 8 zero")
        server.signal(signal.SIGHUP)
        self.assertEqual(server.wait_end(), 0)
