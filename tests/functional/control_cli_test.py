"""The command line against a running server: dmsetup's texts to the letter, the names in JSON, exit
codes. A verb without a test here fails test_every_verb_is_tested."""

import inspect
import json
import os
import re
import subprocess
import sys

import daemon
import harness
from harness import pattern

OK, FAILED, USAGE, NOT_FOUND, BUSY, UNREACHABLE, TIMED_OUT, PERMISSION = range(8)
INFO_NAMES = {"name", "uuid", "description", "minor", "suspended", "read_only", "deferred_remove",
              "live_table", "inactive_table", "targets", "sectors", "open_count", "event_number",
              "queued", "lease_left_s", "failure"}
RATE_NAMES = {"reads_per_s", "writes_per_s", "others_per_s", "read_bytes_per_s",
              "write_bytes_per_s", "errors_per_s", "latency_s", "in_flight"}


class Cli(daemon.Case):
    def setUp(self):
        super().setUp()
        self.a = self.make_file("a.img", 1 << 20, seed=1)
        self.b = self.make_file("b.img", 1 << 20, seed=2)
        self.server = self.start_daemon(daemon.device("vol0", f"0 2048 linear {self.a} 0"))

    def blockloom(self, *words, code=OK, stdin=""):
        """Runs it; what it printed. Says what it said if the exit code is another."""
        done = subprocess.run([harness.BLOCKLOOM, "--socket", self.server.control, *words],
                              cwd=self.folder, input=stdin, capture_output=True, text=True,
                              timeout=harness.PATIENCE, check=False,
                              env={**os.environ, "LC_ALL": "C", "TZ": "UTC"})
        self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}{done.stderr}")
        self.errors = done.stderr
        if code != OK:
            self.assertTrue(done.stderr.startswith("blockloom: "), done.stderr)
        else:
            self.assertEqual(done.stderr, "")
        return done.stdout

    def json(self, *words, **how):
        return json.loads(self.blockloom("--json", *words, **how))

    def one(self, *words):
        """The only device in a JSON answer."""
        devices = self.json(*words)["devices"]
        self.assertEqual(len(devices), 1)
        return devices[0]


class Texts(Cli):
    def test_ls_and_its_tree(self):
        self.assertEqual(self.blockloom("ls"), "vol0\t(254:0)\n")
        self.blockloom("create", "top", "--table", "0 8 linear dev:vol0 0\n8 8 zero")
        self.assertEqual(self.blockloom("ls", "--tree"),
                         f"top (254:1)\n └─vol0 (254:0)\n    └─ ({self.a})\n")
        self.assertEqual(self.json("ls"), {"devices": [
            {"name": "top", "uuid": "", "minor": 1}, {"name": "vol0", "uuid": "", "minor": 0}]})
        top, vol0 = self.json("ls", "--tree")["devices"]
        self.assertEqual(set(top), {"name", "minor", "legs", "holders"})
        self.assertEqual(vol0["holders"], ["top"])

    def test_iscsi_where_there_is_none(self):
        # With a target: iscsi_config_test.py.
        self.blockloom("iscsi", "sessions", code=FAILED)
        self.assertIn("no iSCSI target", self.errors)

    def test_dumps_where_none_are_taken_in(self):
        # With a store: dump_store_test.py.
        self.blockloom("dump", "ls", code=FAILED)
        self.assertIn("dump", self.errors)

    def test_no_devices(self):
        self.blockloom("remove", "vol0")
        for words in (["ls"], ["ls", "--tree"], ["info"], ["info", "-c"], ["table"], ["status"],
                      ["deps"]):
            self.assertEqual(self.blockloom(*words), "No devices found\n", words)
            self.assertEqual(self.json(*words), {"devices": []})

    def test_info(self):
        self.blockloom("rename", "vol0", "--setuuid", "CRYPT-1")
        number = self.one("info", "vol0")["event_number"]
        self.assertEqual(self.blockloom("info", "vol0"),
                         "Name:              vol0\n"
                         "State:             ACTIVE\n"
                         "Read Ahead:        0\n"
                         "Tables present:    LIVE\n"
                         "Open count:        0\n"
                         f"Event number:      {number}\n"
                         "Major, minor:      254, 0\n"
                         "Number of targets: 1\n"
                         "UUID: CRYPT-1\n\n")
        self.assertEqual(self.blockloom("info", "-c"),
                         "Name             Maj Min Stat Open Targ Event  UUID\n"
                         f"vol0             254   0 L--w    0    1 {number:6} CRYPT-1\n")
        self.assertEqual(self.blockloom("info", "-c", "--noheadings", "-u", "CRYPT-1"),
                         f"vol0:254:0:L--w:0:1:{number}:CRYPT-1\n")
        self.assertEqual(set(self.one("info", "vol0")), INFO_NAMES)

    def test_info_counts_clients(self):
        self.connect(self.server, "vol0")
        self.assertEqual(self.one("info", "vol0")["open_count"], 1)

    def test_table_and_status(self):
        self.blockloom("create", "z", "--table", "0 8 zero")
        line = f"0 2048 linear {self.a} 0"
        self.assertEqual(self.blockloom("table", "vol0"), line + "\n")
        self.assertEqual(self.blockloom("table"), f"vol0: {line}\nz: 0 8 zero \n")
        self.assertEqual(self.blockloom("table", "z", "vol0"), f"z: 0 8 zero \nvol0: {line}\n")
        self.assertEqual(self.blockloom("status", "vol0"), "0 2048 linear \n")
        self.assertEqual(self.blockloom("status"), "vol0: 0 2048 linear \nz: 0 8 zero \n")
        self.assertEqual(self.json("table", "vol0"),
                         {"devices": [{"name": "vol0", "lines": [line]}]})
        self.assertEqual(set(self.one("status", "vol0")), {"name", "lines"})
        # What table prints can be loaded.
        self.blockloom("load", "vol0", stdin=self.blockloom("table", "vol0"))
        self.assertEqual(self.blockloom("table", "vol0", "--inactive"), line + "\n")

    def test_deps(self):
        self.blockloom("create", "s", "--table", f"0 256 striped 2 64 {self.a} 0 {self.b} 0")
        self.assertEqual(self.blockloom("deps", "vol0"), f"1 dependencies\t: ({self.a})\n")
        self.assertEqual(self.blockloom("deps"),
                         f"s: 2 dependencies\t: ({self.a}) ({self.b})\n"
                         f"vol0: 1 dependencies\t: ({self.a})\n")
        self.assertEqual(self.json("deps", "vol0"), {"devices": [{"name": "vol0", "legs": [
            {"uri": self.a, "device": "", "bytes": 1 << 20}]}]})

    def test_targets(self):
        names = {line.split()[0] for line in self.blockloom("targets").splitlines()}
        self.assertLessEqual({"linear", "striped", "zero", "error", "delay", "flakey"}, names)
        for line in self.blockloom("targets").splitlines():
            self.assertRegex(line, r"^[a-z-]+ +v\d+\.\d+\.\d+$")
        self.assertEqual(set(self.json("targets")["targets"][0]), {"name", "version"})

    def test_version(self):
        self.assertRegex(self.blockloom("version"),
                         r"^Client version:    [\d.]+\nServer version:    [\d.]+\n$")
        answer = self.json("version")
        self.assertEqual({**answer, "client_version": ""},
                         {**self.server.rpc("version"), "client_version": ""})
        self.assertEqual(answer["client_version"], answer["version"])

    def test_attach_help_lines_attach(self):
        lines = self.blockloom("attach-help", "vol0").splitlines()
        self.assertEqual(lines[0], f"nbd+unix:///vol0?socket={self.server.socket}")
        nbdinfo = next(line for line in lines if line.startswith("  nbdinfo "))
        done = self.command("/bin/sh", "-c", nbdinfo + " --size")
        self.assertEqual(done.stdout.strip(), str(1 << 20))
        endpoint, = self.json("attach-help", "vol0")["endpoints"]
        self.assertEqual(set(endpoint), {"kind", "tls", "uri", "nbd_client", "nbdinfo", "qemu",
                                         "nbdtab"})
        file = re.search(r"file=(.*),format=raw", endpoint["qemu"]).group(1)
        self.command("qemu-img", "info", file)


class Changes(Cli):
    def test_create_takes_its_table_from_anywhere(self):
        table = "# a comment\n0 8 zero\n8 8 error\n"
        path = self.write_text("table.txt", table)
        self.blockloom("create", "from-file", path, "-r", "-u", "U-1", "--description", "hello")
        self.blockloom("create", "from-stdin", stdin=table)
        self.blockloom("create", "from-option", "--table", table)
        for name in ("from-file", "from-stdin", "from-option"):
            self.assertEqual(self.blockloom("table", name), "0 8 zero \n8 8 error \n")
        info = self.one("info", "--uuid", "U-1")
        self.assertEqual((info["name"], info["read_only"], info["description"]),
                         ("from-file", True, "hello"))
        self.blockloom("create", "empty", "--notable")
        self.assertEqual(self.blockloom("table", "empty"), "")
        self.assertIn("Tables present:    None\n", self.blockloom("info", "empty"))
        self.assertEqual(self.json("create", "other", "--notable"), {"name": "other"})

    def test_load_resume_and_clear(self):
        client = self.connect(self.server, "vol0")
        self.assertEqual(client.pread(4096, 0), pattern(1 << 20, 1)[:4096])
        self.assertEqual(self.json("load", "vol0", "--table", f"0 2048 linear {self.b} 0"),
                         {"name": "vol0"})
        self.assertIn("LIVE & INACTIVE", self.blockloom("info", "vol0"))
        self.assertEqual(client.pread(4096, 0), pattern(1 << 20, 1)[:4096])
        resumed = self.one("resume", "vol0")
        self.assertEqual(set(resumed), {"name", "swapped", "pause_s"})
        self.assertTrue(resumed["swapped"])
        self.assertEqual(client.pread(4096, 0), pattern(1 << 20, 2)[:4096])
        self.blockloom("reload", "vol0", "--table", "0 2048 zero")  # dmsetup's other name
        self.assertEqual(self.one("clear", "vol0"), {"name": "vol0"})
        self.assertFalse(self.one("info", "vol0")["inactive_table"])

    def test_suspend_and_its_lease(self):
        self.assertEqual(self.one("suspend", "vol0", "--noflush", "--for", "1h"),
                         {"name": "vol0"})
        info = self.one("info", "vol0")
        self.assertTrue(info["suspended"])
        self.assertGreater(info["lease_left_s"], 3000)
        self.assertIn("State:             SUSPENDED\n", self.blockloom("info", "vol0"))
        self.blockloom("suspend", "vol0", "--for", "100ms")
        self.blockloom("wait", "vol0", "--timeout", "1m")
        self.assertFalse(self.one("info", "vol0")["suspended"])

    def test_suspend_gives_up_and_names_what_is_late(self):
        self.blockloom("create", "slow", "--table",
                       f"0 2048 linear fault:[write=hang]:{self.b} 0")
        client = self.connect(self.server, "slow")
        cookie = client.aio_pwrite(bytearray(512), 0)
        harness.wait_until(
            lambda: self.server.rpc("stats", {"device": "slow"})["devices"][0]["io"]["in_flight"],
            "the write to be in flight")
        self.blockloom("suspend", "slow", "--timeout", "100ms", code=TIMED_OUT)
        self.assertIn(self.b, self.errors)
        self.assertFalse(self.one("info", "slow")["suspended"])
        self.blockloom("remove", "slow", code=BUSY)
        self.blockloom("remove", "slow", "--force")
        harness.wait_until(lambda: client.poll(100) is not None and
                           self.completed(client, cookie), "the write to fail")

    @staticmethod
    def completed(client, cookie):
        try:
            return client.aio_command_completed(cookie)
        except harness.nbd.Error:
            return True

    def test_suspend_without_a_flush_that_fails(self):
        self.blockloom("create", "f", "--table", f"0 2048 linear fault:[flush=error]:{self.b} 0")
        self.blockloom("suspend", "f", code=FAILED)
        self.assertIn("flush failed", self.errors)
        self.assertFalse(self.one("info", "f")["suspended"])
        self.blockloom("suspend", "f", "--noflush")
        self.assertTrue(self.one("info", "f")["suspended"])

    def test_remove_an_open_device(self):
        client = self.connect(self.server, "vol0")
        self.blockloom("remove", "vol0", code=BUSY)
        self.assertIn("open 1 time", self.errors)
        self.assertEqual(self.one("remove", "vol0", "--deferred"), {"name": "vol0"})
        self.assertIn("(DEFERRED REMOVE)", self.blockloom("info", "vol0"))
        client.shutdown()
        harness.wait_until(lambda: self.json("ls")["devices"] == [], "the device to go")

    def test_rename_and_uuid(self):
        self.assertEqual(self.json("rename", "vol0", "disk"), {"name": "disk"})
        self.assertEqual(self.json("rename", "disk", "--setuuid", "U"), {"name": "disk"})
        self.blockloom("rename", "--uuid", "U", "vol0")
        self.assertEqual(self.blockloom("ls"), "vol0\t(254:0)\n")

    def test_several_devices_and_one_that_is_not_there(self):
        self.blockloom("create", "z", "--table", "0 8 zero")
        self.blockloom("suspend", "vol0", "nobody", "z", code=NOT_FOUND)
        self.assertEqual(self.errors, "blockloom: there is no device 'nobody'\n")
        self.assertTrue(all(d["suspended"] for d in self.json("info")["devices"]))
        self.assertEqual([d["name"] for d in self.json("resume", "vol0", "z")["devices"]],
                         ["vol0", "z"])

    def test_message(self):
        self.blockloom("message", "vol0", "0", "hello", code=FAILED)
        self.blockloom("create", "f", "--table", f"0 8 linear fault:[]:{self.b} 0")
        done = self.json("message", "f", "0", "leg", "0", "rules", "read=error")
        self.assertEqual(set(done), {"name", "reply"})
        client = self.connect(self.server, "f")
        self.assert_errno("EIO", client.pread, 512, 0)

    def test_apply_and_check(self):
        path = self.write_text("set.toml", daemon.device("vol0", f"0 2048 linear {self.b} 0") +
                               daemon.device("new", "0 8 zero"))
        self.assertEqual(self.blockloom("check", path), "would create new\nwould swap vol0\n")
        self.assertEqual(self.blockloom("apply", path, "--dry-run"),
                         "would create new\nwould swap vol0\n")
        self.assertEqual(self.blockloom("ls"), "vol0\t(254:0)\n")
        self.assertRegex(self.blockloom("apply", path),
                         r"^created new\nswapped vol0\nI/O was paused for [\d.]+ (us|ms|s)\n$")
        self.assertEqual(self.blockloom("apply", "-", stdin=open(path, encoding="utf-8").read()),
                         "unchanged vol0\nunchanged new\n")
        report = {"created", "swapped", "unchanged", "pause_s"}
        self.assertEqual(set(self.json("apply", path)), report)
        self.assertEqual(set(self.json("check", path)), report)

    def test_apply_is_all_or_nothing(self):
        before = self.blockloom("table")
        path = self.write_text("set.toml", daemon.device("vol0", "0 2048 zero") +
                               daemon.device("bad", "0 8 linear /nowhere 0"))
        self.blockloom("apply", path, code=NOT_FOUND)
        self.assertIn("/nowhere", self.errors)
        self.assertEqual(self.blockloom("table"), before)
        broken = self.write_text("broken.toml", "[[device]]\nname = \n")
        self.blockloom("check", broken, code=FAILED)
        self.assertIn(f"{broken}:2:", self.errors)
        self.blockloom("apply", "/no/such/file", code=FAILED)

    def test_reload_without_a_device(self):
        self.configure(self.server.folder, daemon.device("vol0", f"0 2048 linear {self.b} 0"))
        self.assertRegex(self.blockloom("reload"), r"^swapped vol0\nI/O was paused for ")
        self.assertEqual(self.blockloom("table", "vol0"), f"0 2048 linear {self.b} 0\n")
        self.assertEqual(self.json("reload")["unchanged"], ["vol0"])


class Watching(Cli):
    def test_wait(self):
        number = self.one("info", "vol0")["event_number"]
        self.blockloom("wait", "vol0", "0")  # it has passed already
        self.blockloom("wait", "vol0", str(number), "--timeout", "50ms", code=TIMED_OUT)
        waiter = self.spawn(harness.BLOCKLOOM, "--socket", self.server.control, "--json", "wait",
                            "vol0", str(number), stdout=subprocess.PIPE)
        self.blockloom("suspend", "vol0")
        out, _ = waiter.communicate(timeout=harness.PATIENCE)
        self.assertEqual(json.loads(out), {"name": "vol0", "event_number": number + 1})

    def test_wait_for_a_device_that_is_removed(self):
        waiter = self.spawn(harness.BLOCKLOOM, "--socket", self.server.control, "wait", "vol0",
                            "1000", stderr=subprocess.PIPE, text=True)
        # Its connection is there before the device goes.
        harness.wait_until(lambda: waiter.poll() is not None or self.waits_on_socket(waiter.pid),
                           "the client to wait")
        self.blockloom("remove", "vol0")
        _, errors = waiter.communicate(timeout=harness.PATIENCE)
        self.assertEqual(waiter.returncode, FAILED if "was removed" in errors else NOT_FOUND)

    @staticmethod
    def waits_on_socket(pid):
        return os.path.exists(f"/proc/{pid}/fd/3")

    def test_events(self):
        self.blockloom("rename", "vol0", "vol1")
        lines = self.blockloom("events").splitlines()
        self.assertRegex(lines[-1], r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} +\d+ vol1 +renamed "
                                    r"+from 'vol0'$")
        events = [json.loads(line) for line in self.blockloom("--json", "events").splitlines()]
        self.assertEqual(set(events[-1]),
                         {"sequence", "time_s", "device", "event_number", "kind", "detail"})
        since = str(events[-1]["sequence"] - 1)
        self.assertEqual(len(self.blockloom("events", "--since", since).splitlines()), 1)
        self.assertEqual(self.blockloom("events", "nobody"), "")

    def test_events_are_followed_until_the_reader_goes(self):
        follower = self.spawn(harness.BLOCKLOOM, "--socket", self.server.control, "--json",
                              "events", "--follow", "--since", "0", stdout=subprocess.PIPE,
                              text=True)
        self.assertEqual(json.loads(follower.stdout.readline())["kind"], "created")
        self.blockloom("suspend", "vol0")
        self.blockloom("resume", "vol0")
        kinds = [json.loads(follower.stdout.readline())["kind"] for _ in range(2)]
        self.assertEqual(kinds, ["suspended", "resumed"])
        follower.stdout.close()
        for _ in range(3):
            self.blockloom("suspend", "vol0")
            self.blockloom("resume", "vol0")
        self.assertEqual(follower.wait(harness.PATIENCE), FAILED)
        follower.stdout = None

    def test_top(self):
        client = self.connect(self.server, "vol0")
        top = self.spawn(harness.BLOCKLOOM, "--socket", self.server.control, "--json", "top",
                         "--interval", "300ms", stdout=subprocess.PIPE, text=True)
        rates = {}
        while not rates.get("reads_per_s"):
            for _ in range(200):
                client.pread(4096, 0)
            sample = json.loads(top.stdout.readline())
            self.assertEqual(set(sample), {"interval_s", "devices"})
            device, = sample["devices"]
            self.assertEqual(set(device), {"name", "suspended", "queued", "rates", "legs"})
            rates = device["rates"]
        self.assertEqual(set(rates), RATE_NAMES)
        self.assertAlmostEqual(rates["read_bytes_per_s"], rates["reads_per_s"] * 4096, delta=1)
        self.assertGreater(rates["latency_s"], 0)
        leg, = device["legs"]
        self.assertEqual((leg["uri"], set(leg["rates"])), (self.a, RATE_NAMES))
        lines = self.blockloom("top", "--once", "--interval", "100ms").splitlines()
        self.assertEqual(len(lines), 3)
        self.assertTrue(lines[1].startswith("vol0 "), lines)
        self.assertTrue(lines[2].split()[0].endswith("a.img"), lines)
        self.assertEqual(len({len(line) for line in lines}), 1, "the table is aligned")


class Mirrors(Cli):
    """What the verbs print and how they end; what they do is in mirror_test.py."""

    def setUp(self):
        super().setUp()
        self.log = self.make_file("log.img", 1 << 20)
        self.blockloom("create", "m", "--table",
                       f"0 2048 mirror disk 2 {self.log} 128 2 {self.a} 0 {self.b} 0")
        self.blockloom("wait", "m", "--in-sync", "--timeout", "60s")

    def test_mirror_status(self):
        self.assertIn("m at sector 0: serving, 16 of 16 regions in sync",
                      self.blockloom("mirror-status", "m"))
        self.assertIn("has no mirror", self.fails("mirror-status", "vol0", code=NOT_FOUND))
        details = self.json("mirror-status", "m")["mirrors"][0]["details"]
        self.assertEqual([leg["health"] for leg in details["legs"]], ["A", "A"])

    def fails(self, *words, code=FAILED):
        self.blockloom(*words, code=code)
        return self.errors

    def test_leg(self):
        self.assertEqual(self.blockloom("leg", "fail", "m", "1"), "")
        self.assertIn("is the last one", self.fails("leg", "fail", "m", "0", code=BUSY))
        self.assertEqual(self.blockloom("leg", "readd", "m", self.b), "")
        self.assertIn("expected a number from 0 to 1, or the URI of one",
                      self.fails("leg", "remove", "m", "/nonesuch", code=NOT_FOUND))
        c = self.make_file("c.img", 1 << 20)
        answer = self.json("leg", "add", "m", c)
        self.assertEqual((answer["name"], answer["swapped"], answer["legs"]), ("m", True, 3))

    def test_migrate(self):
        c = self.make_file("c.img", 1 << 20)
        self.assertIn(f"'{c}' is in sync and serves; '0' has left",
                      self.blockloom("migrate", "m", "--from", "0", "--to", c))
        self.assertIn("has no leg", self.fails("migrate", "vol0", "--from", "0", "--to", c,
                                               code=NOT_FOUND).replace("no mirror", "has no leg"))


class Failures(Cli):
    def test_exit_codes(self):
        self.blockloom("info", "nobody", code=NOT_FOUND)
        self.assertEqual(self.errors, "blockloom: there is no device 'nobody'\n")
        self.blockloom("create", "vol0", "--table", "0 8 zero", code=FAILED)
        self.blockloom("create", "x", "--table", "0 8 linear /nowhere 0", code=NOT_FOUND)
        self.blockloom("create", "x", "--table", "0 8 frob", code=FAILED)
        self.blockloom("create", "x", "--table", "0 8 linear", code=FAILED)
        self.blockloom("create", "x", stdin="", code=FAILED)
        self.blockloom("frobnicate", code=USAGE)
        self.blockloom("ls", "--frobnicate", code=USAGE)
        self.blockloom("suspend", code=USAGE)
        self.blockloom(code=USAGE)

    def test_failures_in_json(self):
        out = self.blockloom("--json", "remove", "nobody", code=NOT_FOUND)
        self.assertEqual(json.loads(out), {"error": {
            "errc": "not_found", "message": "there is no device 'nobody'"}})

    def test_without_a_server(self):
        self.assertEqual(self.server.terminate(), 0)
        self.blockloom("ls", code=UNREACHABLE)
        self.assertIn(self.server.control, self.errors)
        out = self.blockloom("--json", "ls", code=UNREACHABLE)
        self.assertEqual(json.loads(out)["error"]["errc"], "unreachable")
        self.assertRegex(self.blockloom("version", code=UNREACHABLE), r"^Client version: +[\d.]+\n$")
        self.assertFalse(os.path.exists(self.server.control), "the socket goes with the server")

    def test_a_server_with_all_its_connections_is_tried_again(self):
        taken = []
        for _ in range(64):
            taken.append(harness.socket.socket(harness.socket.AF_UNIX))
            self.addCleanup(taken[-1].close)
            taken[-1].connect(self.server.control)
        out = self.blockloom("--json", "ls", code=FAILED)
        self.assertEqual(json.loads(out)["error"]["errc"], "limit")
        self.assertIn("64 control connections", self.errors)
        waiter = self.spawn(harness.BLOCKLOOM, "--socket", self.server.control, "ls",
                            stdout=subprocess.PIPE, text=True)
        harness.wait_until(lambda: waiter.poll() is not None or
                           os.path.exists(f"/proc/{waiter.pid}/fd/3"), "the client to connect")
        harness.time.sleep(0.2)  # so that it is turned away first
        taken[0].close()
        out, _ = waiter.communicate(timeout=harness.PATIENCE)
        self.assertEqual((out, waiter.returncode), ("vol0\t(254:0)\n", OK))

    def test_the_environment_names_the_socket(self):
        done = self.command(harness.BLOCKLOOM, "ls",
                            environment={"BLOCKLOOM_SOCKET": self.server.control})
        self.assertEqual(done.stdout, "vol0\t(254:0)\n")

    def test_another_user_is_refused(self):
        if os.getuid() != 0:
            self.skipTest("only root can become another user")
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        tool = self.path("blockloom")
        self.command("cp", harness.BLOCKLOOM, tool)
        for path in (self.folder, self.server.folder, tool):
            os.chmod(path, 0o755)
        done = self.command(*as_nobody, tool, "--socket", self.server.control, "ls", check=False)
        self.assertEqual(done.returncode, PERMISSION, done.stderr)
        # Even where somebody opened the socket to all.
        os.chmod(self.server.control, 0o666)
        done = self.command(*as_nobody, tool, "--socket", self.server.control, "ls", check=False)
        self.assertEqual(done.returncode, PERMISSION, done.stderr)
        self.assertIn("user 65534 may not control this server", done.stderr)


class Coverage(harness.Case):
    def test_every_verb_is_tested(self):
        help_text = self.command(harness.BLOCKLOOM, "--help").stdout
        verbs = re.findall(r"^  ([a-z-]+)  +\S", help_text.split("Subcommands:")[1], re.M)
        self.assertGreater(len(verbs), 20)
        source = inspect.getsource(sys.modules[__name__])
        for verb in verbs:
            self.assertRegex(source, rf'(blockloom|json|one)\(\s*"{verb}"', verb)
