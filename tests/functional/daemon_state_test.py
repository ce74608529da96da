"""What outlives the process: devices made at run time, the rule between them and the
configuration, and the saved state under kill -9 at every step of a save."""

import os
import re
import shutil
import subprocess

import daemon
import harness
from harness import MIB, pattern

# Every system call of a save, in its order; the number tells the fsync of the file from that of
# its folder.
STEPS = [("openat", 1), ("write", 1), ("fsync", 1), ("close", 1), ("rename", 1), ("fsync", 2)]
# And after it: all is done, and the answer is about to be sent.
ANSWER = ("sendmsg,sendto", 1)


class Case(daemon.Case):
    def setUp(self):
        super().setUp()
        self.disks = [self.make_file(f"disk{i}", MIB) for i in range(3)]

    def linear(self, disk):
        return f"0 2048 linear {self.disks[disk]} 0"

    @staticmethod
    def tables(server):
        """{name: table} of all devices."""
        return {one["name"]: "\n".join(one["lines"]).rstrip() for one in server.rpc("table")["devices"]}

    def table(self, server, name):
        return self.tables(server)[name]

    def restart(self, server, text=None):
        if server.alive():
            self.assertEqual(server.terminate(), 0)
        if text is not None:
            self.configure(server.folder, text, state=True)
        return self.run_daemon(server.folder)


class Restart(Case):
    def test_devices_made_at_run_time_come_back(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)), state=True)
        server.rpc("create", {"name": "b", "table": self.linear(1), "uuid": "U",
                              "description": "by hand", "read_only": False})
        self.connect(server, "b").pwrite(pattern(512, 1), 0)
        server.rpc("load", {"device": "b", "table": self.linear(2)})
        server = self.restart(server)
        self.assertEqual(self.tables(server), {"a": self.linear(0), "b": self.linear(1)})
        self.assertEqual(self.connect(server, "b").pread(512, 0), pattern(512, 1))
        info, = server.rpc("info", {"device": "b"})["devices"]
        self.assertEqual((info["uuid"], info["description"]), ("U", "by hand"))
        server.rpc("resume", {"device": "b"})  # the inactive table is still there
        self.assertEqual(self.table(server, "b"), self.linear(2))

    def test_without_a_state_folder_they_do_not(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)))
        server.rpc("create", {"name": "b", "table": self.linear(1)})
        self.assertEqual(server.terminate(), 0)
        self.assertEqual(self.tables(self.run_daemon(server.folder)), {"a": self.linear(0)})

    def test_a_swap_stands_until_the_configuration_says_something_new(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)), state=True)
        server.rpc("load", {"device": "a", "table": self.linear(1)})
        server.rpc("resume", {"device": "a"})
        server = self.restart(server)
        self.assertEqual(self.table(server, "a"), self.linear(1))
        server = self.restart(server, daemon.device("a", self.linear(2)))
        self.assertEqual(self.table(server, "a"), self.linear(2))

    def test_a_swap_stands_over_a_reload_that_changes_something_else(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)), state=True)
        server.rpc("load", {"device": "a", "table": self.linear(1)})
        server.rpc("resume", {"device": "a"})
        self.configure(server.folder, daemon.device("a", self.linear(0)) +
                       daemon.device("b", "0 8 zero"), state=True)
        self.assertEqual(server.rpc("reload")["created"], ["b"])
        self.assertEqual(self.table(server, "a"), self.linear(1))

    def test_a_removal_stands_until_the_configuration_says_something_new(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)), state=True)
        server.rpc("remove", {"device": "a"})
        server = self.restart(server)
        self.assertEqual(self.tables(server), {})
        server = self.restart(server, daemon.device("a", self.linear(1)))
        self.assertEqual(self.tables(server), {"a": self.linear(1)})

    def test_what_the_configuration_drops_goes(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)) +
                                   daemon.device("b", self.linear(1)), state=True)
        server.rpc("create", {"name": "c", "table": "0 8 zero"})
        server = self.restart(server, daemon.device("b", self.linear(1)))
        self.assertEqual(sorted(self.tables(server)), ["b", "c"])

    def test_a_missing_leg_comes_back_with_its_table(self):
        server = self.start_daemon(state=True)
        server.rpc("create", {"name": "b", "table": self.linear(1)})
        server.rpc("create", {"name": "c", "table": self.linear(2)})
        self.assertEqual(server.terminate(), 0)
        os.rename(self.disks[1], self.path("away"))
        server = self.run_daemon(server.folder)
        self.assertEqual(server.log().count(self.disks[1]), 1, server.log())
        self.connect(server, "c")
        self.assertEqual(server.terminate(), 0)
        os.rename(self.path("away"), self.disks[1])
        server = self.run_daemon(server.folder)
        self.assertEqual(self.tables(server), {"b": self.linear(1), "c": self.linear(2)})

    def test_a_start_by_hand_that_fails_says_why_once(self):
        said = self.refuse("table=0 8 linear /no/such/leg 0", f"state={self.path('state')}")
        self.assertEqual(said.count("/no/such/leg"), 1, said)

    def test_a_configured_device_that_stays_removed_is_told(self):
        text = daemon.device("a", self.linear(0))
        server = self.start_daemon(text, state=True)
        server.rpc("remove", {"device": "a"})
        note = ("a stays removed: it was removed at run time; change its text in the configuration "
                "to bring it back")
        self.assertIn(note, server.rpc("reload")["notes"])
        server = self.restart(server)
        self.assertIn(note, server.log())

    def test_one_folder_serves_one_process(self):
        server = self.start_daemon(daemon.device("a", "0 8 zero"), state=True)
        other = self.new_folder()
        self.configure(other, daemon.device("a", "0 8 zero"),
                       more=f'state_dir = "{server.folder}/state"')
        done = self.blockloomd(f"{other}/blockloom.toml")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("is in use by another server", done.stderr)
        self.connect(server, "a")

    def test_a_damaged_state_is_told_and_not_thrown_away(self):
        server = self.start_daemon(state=True)
        server.rpc("create", {"name": "b", "table": "0 8 zero"})
        self.assertEqual(server.terminate(), 0)
        folder = f"{server.folder}/state"
        for name in os.listdir(folder):
            if name.startswith("devices."):
                with open(f"{folder}/{name}", "r+b") as file:
                    file.seek(30)
                    file.write(b"\xff\xff\xff")
        before = {name: self.read_file(f"{folder}/{name}") for name in os.listdir(folder)}
        done = self.blockloomd(server.config)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"{folder}/devices.", done.stderr)
        self.assertEqual({name: self.read_file(f"{folder}/{name}") for name in os.listdir(folder)},
                         before)


class Verb(Case):
    def test_reload_answers_what_it_did(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)) +
                                   daemon.device("b", "0 8 zero"))
        self.configure(server.folder, daemon.device("a", self.linear(1)) +
                       daemon.device("c", "0 8 zero"), more="threads = 3")
        report = server.rpc("reload")
        self.assertEqual((report["created"], report["swapped"], report["removed"]),
                         (["c"], ["a"], ["b"]))
        self.assertEqual(report["notes"],
                         ["server.threads changed: it needs a restart to take effect"])
        again = server.rpc("reload")
        self.assertEqual((again["created"], again["swapped"], again["removed"]), ([], [], []))
        self.assertEqual(sorted(again["unchanged"]), ["a", "c"])

    def test_the_command_tells_what_a_reload_did(self):
        server = self.start_daemon(daemon.device("a", "0 8 zero") + daemon.device("b", "0 8 zero"))
        self.configure(server.folder, daemon.device("a", "0 8 zero"), more="threads = 3")
        words = (harness.BLOCKLOOM, "reload")
        environment = {"BLOCKLOOM_SOCKET": server.control}
        self.assertEqual(self.command(*words, environment=environment).stdout,
                         "removed b\nunchanged a\n"
                         "server.threads changed: it needs a restart to take effect\n")
        self.configure(server.folder, "nonsense\n")
        done = self.command(*words, environment=environment, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"the old configuration stays: {server.config}:", done.stderr)

    def test_reload_answers_why_not(self):
        server = self.start_daemon(daemon.device("a", self.linear(0)))
        self.configure(server.folder, daemon.device("a", self.linear(1)) + "nonsense\n")
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("reload")
        self.assertIn("the old configuration stays", caught.exception.message)
        self.assertIn(f"{server.config}:", caught.exception.message)
        self.assertEqual(self.table(server, "a"), self.linear(0))

    def test_apply_takes_devices_alone_and_names_places(self):
        server = self.start_daemon()
        server.rpc("apply", {"toml": daemon.device("a", "0 8 zero"), "file": "my.toml"})
        self.assertEqual(self.tables(server), {"a": "0 8 zero"})
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("apply", {"toml": "\n[server]\n", "file": "my.toml"})
        self.assertIn("my.toml:2:2: unknown key 'server'", caught.exception.message)
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("check", {"toml": daemon.device("b", "0 8 nonesuch"), "file": "my.toml"})
        self.assertIn("nonesuch", caught.exception.message)

    def test_attach_help_names_every_listener(self):
        folder, port = self.new_folder(), daemon.free_port()
        self.configure(folder, daemon.device("a", "0 8 zero"),
                       listen=[f"unix:{folder}/nbd.sock", f"tcp:127.0.0.1:{port}"])
        server = self.run_daemon(folder)
        uris = {one["uri"] for one in server.rpc("attach_help", {"device": "a"})["endpoints"]}
        self.assertEqual(len(uris), 2)
        for uri in uris:
            self.connect(server, uri=uri)

    def test_attach_help_of_an_nbdkit_started_by_hand(self):
        folder = self.new_folder()
        command = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(daemon.free_port()),
                   os.path.abspath(harness.PLUGIN), "table=0 8 zero",
                   f"control={folder}/control.sock"]
        self.spawn(*command)
        control = f"{folder}/control.sock"
        harness.wait_until(lambda: os.path.exists(control), "the control socket")
        link = harness.Control(control)
        self.addCleanup(link.close)
        name = link.rpc("list")["devices"][0]["name"]
        endpoints = link.rpc("attach_help", {"device": name})["endpoints"]
        self.assertEqual(len(endpoints), 1)
        self.connect(None, uri=endpoints[0]["uri"])


class Killed(Case):
    """kill -9 at every step of a save, by strace: the next start finds the old or the new state,
    whole, and the new one if the change was acknowledged."""

    def setUp(self):
        super().setUp()
        if not shutil.which("strace"):
            self.skipTest("needs strace")
        probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True,
                               timeout=harness.PATIENCE, check=False)
        if probe.returncode != 0:
            self.skipTest(f"strace does not work here: {probe.stderr.strip()}")

    def trace(self, server, *expressions, state_only=True):
        """strace on every thread of the server; of calls that have to do with the saved state."""
        state = f"{server.folder}/state"
        paths = ("-P", f"{state}/devices.new", "-P", state) if state_only else ()
        tracer = self.spawn(
            "strace", "-f", "-q", "-q", "-o", self.path("trace"), "-p", str(server.pid),
            *paths, *(word for expression in expressions for word in ("-e", expression)),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def attached():
            if tracer.poll() is not None:
                self.fail(f"strace cannot attach: {tracer.stderr.read().decode()}")
            for task in os.listdir(f"/proc/{server.pid}/task"):
                with open(f"/proc/{server.pid}/task/{task}/status", encoding="utf-8") as status:
                    if "TracerPid:\t0\n" in status.read():
                        return False
            return True
        harness.wait_until(attached, "strace attached to every thread")
        return tracer

    def tamper(self, server, call, number, what):
        """Tampers with the N-th such call of a save, or of those that answer."""
        return self.trace(server, f"trace={call}", f"inject={call}:{what}:when={number}",
                          state_only=(call, number) != ANSWER)

    def test_the_steps_are_all_system_calls_of_a_save(self):
        server = self.start_daemon(state=True)
        tracer = self.trace(server)
        server.rpc("create", {"name": "a", "table": self.linear(0)})
        tracer.terminate()
        tracer.wait(harness.PATIENCE)
        calls = re.findall(r"^\d+ +(\w+)\(", self.read_file(self.path("trace")).decode(), re.M)
        self.assertEqual(calls, [call for call, _ in STEPS])

    def kill_at(self, call, number, change, before=()):
        """Two devices a and b; the change is under way when the server dies. Gives back the
        tables after the next start, and whether the change was acknowledged."""
        server = self.start_daemon(state=True)
        for name in "ab":
            server.rpc("create", {"name": name, "table": self.linear(0)})
        for done in before:
            server.rpc(*done)
        self.tamper(server, call, number, "signal=KILL")
        acknowledged = True
        try:
            server.rpc(*change)
        except (ConnectionError, OSError):
            acknowledged = False
        server.wait_end()
        with open(self.path("trace"), encoding="utf-8") as trace:
            self.assertIn("killed by SIGKILL", trace.read())
        server = self.run_daemon(server.folder)
        self.connect(server, "a").pread(512, 0)
        tables = self.tables(server)
        self.assertEqual(server.terminate(), 0)
        return tables, acknowledged

    def every_step(self, change, old, new, before=()):
        seen = set()
        for call, number in (*STEPS, ANSWER):
            with self.subTest(call=call, number=number):
                tables, acknowledged = self.kill_at(call, number, change, before)
                self.assertFalse(acknowledged)
                self.assertIn(tables, (new,) if (call, number) == ANSWER else (old, new))
                seen.add("new" if tables == new else "old")
        self.assertEqual(seen, {"old", "new"})  # before the rename, and after it

    def test_create(self):
        old = {"a": self.linear(0), "b": self.linear(0)}
        self.every_step(("create", {"name": "c", "table": self.linear(1)}), old,
                        {**old, "c": self.linear(1)})

    def test_apply_of_two_is_both_or_none(self):
        old = {"a": self.linear(0), "b": self.linear(0)}
        new = {"a": self.linear(1), "b": self.linear(2)}
        text = daemon.device("a", self.linear(1)) + daemon.device("b", self.linear(2))
        self.every_step(("apply", {"toml": text}), old, new)

    def test_remove(self):
        old = {"a": self.linear(0), "b": self.linear(0)}
        self.every_step(("remove", {"device": "b"}), old, {"a": self.linear(0)})

    def test_a_resume_that_swaps(self):
        old = {"a": self.linear(0), "b": self.linear(0)}
        self.every_step(("resume", {"device": "a"}), old, {**old, "a": self.linear(1)},
                        before=[("load", {"device": "a", "table": self.linear(1)})])

    def test_rename(self):
        old = {"a": self.linear(0), "b": self.linear(1)}
        self.every_step(("rename", {"device": "b", "new_name": "c"}), old,
                        {"a": self.linear(0), "c": self.linear(1)},
                        before=[("load", {"device": "b", "table": self.linear(1)}),
                                ("resume", {"device": "b"})])

    def test_a_save_that_fails_is_told_and_the_server_goes_on(self):
        for call, number, error in (("openat", 1, "EACCES"), ("write", 1, "ENOSPC"),
                                    ("fsync", 1, "EIO"), ("rename", 1, "EROFS"),
                                    ("fsync", 2, "EIO")):
            with self.subTest(call=call, number=number):
                server = self.start_daemon(state=True)
                server.rpc("create", {"name": "a", "table": self.linear(0)})
                tracer = self.tamper(server, call, number, f"error={error}")
                with self.assertRaises(harness.RpcError) as caught:
                    server.rpc("create", {"name": "b", "table": self.linear(1)})
                self.assertIn("a restart would not know of it", caught.exception.message)
                self.connect(server, "b").pread(512, 0)
                tracer.terminate()
                tracer.wait(harness.PATIENCE)
                server.rpc("create", {"name": "c", "table": self.linear(2)})  # saves b too
                server = self.restart(server)
                self.assertEqual(sorted(self.tables(server)), ["a", "b", "c"])
                self.assertEqual(server.terminate(), 0)
