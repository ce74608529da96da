"""Exports, negotiation and the command line."""

import os
import re
import subprocess

import harness
from harness import MIB, SECTOR, sectors


class Exports(harness.Case):
    def three(self, *more, **options):
        a, b = self.make_file("a.img", MIB, seed=1), self.make_file("b.img", 2 * MIB, seed=2)
        return self.serve(f"device=alpha:0 2048 linear {a} 0", f"device=beta:0 4096 linear {b} 0",
                          "device=gamma:0 64 zero", *more, **options)

    def listed(self, server):
        client = harness.nbd.NBD()
        client.set_opt_mode(True)
        client.connect_unix(server.socket)
        found = []
        client.opt_list(lambda name, description: found.append((name, description)) and 0 or 0)
        client.opt_abort()
        return found

    def test_each_device_is_an_export_of_its_size(self):
        server = self.three()
        self.assertEqual(sorted(name for name, _ in self.listed(server)), ["alpha", "beta", "gamma"])
        for name, size in (("alpha", MIB), ("beta", 2 * MIB), ("gamma", 64 * SECTOR)):
            self.assertEqual(self.connect(server, name).get_size(), size)

    def test_an_unknown_export_is_refused_and_the_server_goes_on(self):
        server = self.three()
        with self.assertRaises(harness.nbd.Error):
            self.connect(server, "delta")
        self.assertIn("delta", server.log())
        self.assertEqual(self.connect(server, "alpha").get_size(), MIB)

    def test_without_a_default_the_empty_name_is_refused_with_a_hint(self):
        server = self.three()
        with self.assertRaises(harness.nbd.Error):
            self.connect(server)
        self.assertIn("default=NAME", server.log())

    def test_default_names_the_export_of_the_empty_name(self):
        server = self.three("default=beta")
        self.assertEqual(self.connect(server).get_size(), 2 * MIB)
        client = harness.nbd.NBD()
        client.set_opt_mode(True)
        client.set_full_info(True)
        client.connect_unix(server.socket)
        client.opt_info()
        self.assertEqual(client.get_canonical_export_name(), "beta")
        client.opt_abort()

    def test_a_single_device_is_the_default(self):
        server = self.serve("device=only:0 64 zero")
        self.assertEqual(self.connect(server).get_size(), 64 * SECTOR)

    def test_descriptions_are_told(self):
        server = self.serve("device=plain:0 64 zero", control=True)
        server.rpc("create", {"name": "told", "table": "0 64 zero",
                              "description": "Scratch, ünversioned"})
        self.assertEqual(sorted(self.listed(server)),
                         [("plain", ""), ("told", "Scratch, ünversioned")])
        client = harness.nbd.NBD()
        client.set_opt_mode(True)
        client.set_full_info(True)
        client.set_export_name("told")
        client.connect_unix(server.socket)
        client.opt_info()
        self.assertEqual(client.get_export_description(), "Scratch, ünversioned")
        client.opt_abort()

    def test_devices_made_and_renamed_while_running_are_exports(self):
        server = self.serve(control=True)
        self.assertEqual(self.listed(server), [])
        server.rpc("create", {"name": "new", "table": "0 64 zero"})
        self.assertEqual(self.connect(server, "new").get_size(), 64 * SECTOR)
        server.rpc("rename", {"device": "new", "new_name": "newer"})
        self.assertEqual([name for name, _ in self.listed(server)], ["newer"])

    def test_a_device_without_a_table_is_not_listed(self):
        server = self.serve(control=True)
        server.rpc("create", {"name": "empty"})
        self.assertEqual(self.listed(server), [])

    def test_size_is_that_of_the_moment_a_client_connected(self):
        server = self.serve("device=grow:0 2048 linear mem:8M 0", control=True)
        early = self.connect(server, "grow")
        server.rpc("load", {"device": "grow", "table": "0 4096 linear mem:8M 0"})
        server.rpc("resume", {"device": "grow"})
        self.assertEqual(early.get_size(), MIB)
        self.assertEqual(self.connect(server, "grow").get_size(), 2 * MIB)
        server.rpc("load", {"device": "grow", "table": "0 64 zero"})
        server.rpc("resume", {"device": "grow"})
        self.assertEqual(early.pread(SECTOR, 0), bytes(SECTOR))
        self.assert_errno("EINVAL", early.pread, SECTOR, 64 * SECTOR)
        self.assert_errno("ENOSPC", early.pwrite, bytes(SECTOR), 64 * SECTOR)
        self.assertEqual(early.pread(SECTOR, 63 * SECTOR), bytes(SECTOR))

    def test_block_sizes_and_capabilities(self):
        client = self.connect(self.three(), "alpha")
        self.assertEqual([client.get_block_size(getattr(harness.nbd, f"SIZE_{which}"))
                          for which in ("MINIMUM", "PREFERRED", "MAXIMUM")], [512, 4096, 64 * MIB])
        for able in ("can_multi_conn", "can_fua", "can_flush", "can_trim", "can_zero",
                     "can_fast_zero", "can_cache"):
            self.assertTrue(getattr(client, able)(), able)
        self.assertFalse(client.is_rotational())
        self.assertFalse(client.is_read_only())

    def test_tcp_and_unix_serve_the_same_device(self):
        server = self.three()
        here = self.connect(server, "alpha")
        there = self.connect(server, uri=server.tcp_uri("alpha"))
        here.pwrite(b"x" * SECTOR, 0)
        self.assertEqual(there.pread(SECTOR, 0), b"x" * SECTOR)

    def test_read_only_devices_and_servers(self):
        disk = self.make_file("a.img", MIB, seed=1)
        table = f"table=0 2048 linear {disk} 0"
        for server in (self.serve(table, "readonly=true"), self.serve(table, flags=["-r"])):
            client = self.connect(server, strict=False)
            self.assertTrue(client.is_read_only())
            self.assert_errno("EPERM", client.pwrite, bytes(SECTOR), 0)
            self.assertEqual(client.pread(SECTOR, 0), harness.pattern(MIB, 1)[:SECTOR])
        os.chmod(disk, 0o444)
        client = self.connect(self.serve(table, "readonly=true"))
        self.assertEqual(client.pread(MIB, 0), harness.pattern(MIB, 1))

    def test_nbdinfo_lists_them(self):
        text = self.command("nbdinfo", "--list", self.three().uri()).stdout
        for name in ("alpha", "beta", "gamma"):
            self.assertIn(f'export="{name}"', text)


class CommandLine(harness.Case):
    def nbdkit(self, *words):
        return self.command("nbdkit", *words, check=False)

    def test_dump_plugin_says_version_and_features(self):
        text = self.nbdkit("--dump-plugin", harness.PLUGIN).stdout
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        self.assertEqual(found["name"], "blockloom")
        self.assertRegex(found["version"], r"^\d+\.\d+\.\d+$")
        self.assertEqual(found["blockloom_version"], found["version"])
        self.assertEqual(found["max_thread_model"], "parallel")
        for target in ("linear", "striped", "zero", "error", "delay", "flakey"):
            self.assertRegex(found["blockloom_targets"], rf"\b{target} v\d+\.\d+\.\d+")
        for feature in ("multi-conn", "fua", "extents", "swap"):
            self.assertIn(feature, found["blockloom_features"])
        for leg in ("file", "mem", "dev", "fault"):
            self.assertIn(leg, found["blockloom_legs"])

    def test_dump_plugin_works_with_parameters(self):
        self.assertEqual(self.nbdkit("--dump-plugin", harness.PLUGIN, "table=0 8 zero").returncode, 0)

    def test_help_names_every_parameter(self):
        text = self.nbdkit(harness.PLUGIN, "--help").stdout
        for parameter in ("table", "device", "readonly", "config", "default", "control", "state"):
            self.assertRegex(text, rf"(?m)^\[?{parameter}=")

    def test_a_bare_word_is_a_table(self):
        client = self.connect(self.serve("0 64 zero"))
        self.assertEqual(client.get_size(), 64 * SECTOR)

    def test_tables_from_files(self):
        disk = self.make_file("a.img", MIB)
        table = self.write_text("t.table", f"# two parts\n0 1024 linear {disk} 0\n1024 1024 zero\n")
        server = self.serve(f"table=@{table}", f"device=again:@{table}", "default=default")
        self.assertEqual(self.connect(server).get_size(), MIB)

    def test_plugin_exports_one_symbol(self):
        text = self.command("nm", "-D", "--defined-only", harness.PLUGIN).stdout
        names = [line.split()[2] for line in text.splitlines() if line.split()[1] in "TDB"]
        self.assertEqual(names, ["plugin_init"])


class Refused(harness.Case):
    """What cannot be served ends at the start, with a message that says what to do."""

    def check(self, table, *expected):
        said = self.refuse(f"table={table}")
        for words in expected:
            self.assertIn(words, said)

    def test_bad_table_lines(self):
        disk = self.make_file("a.img", MIB)
        self.check("0 2048 lineer /a.img 0", "line 1", "lineer")
        self.check("0 2048", "line 1")
        self.check("0 0 zero", "line 1", "0")
        self.check("x 8 zero", "line 1", "'x'")
        self.check("8 8 zero", "line 1")
        self.check("0 8 zero\n9 8 zero", "line 2")
        self.check("0 8 zero\n4 8 zero", "line 2")
        self.check("0 99999999999999999999 zero", "line 1", "99999999999999999999")
        self.check(f"0 8 zero\n8 9223372036854775807 linear {disk} 0", "line 2")
        self.check(f"0 8 linear {disk}", "line 1")
        self.check(f"0 100 striped 2 3 {disk} 0 {disk} 0", "line 1")
        self.check("0 8 linear a.img 0", "line 1", "a.img")
        self.check("", "default")

    def test_a_table_line_as_long_as_a_book(self):
        path = self.write_text("t", "0 8 linear /" + "a" * (1 << 20) + " 0\n")
        said = self.refuse(f"table=@{path}")
        self.assertIn("line 1", said)
        self.assertLess(len(said), 4096, "the message is shorter than what it complains about")

    def test_missing_and_small_files(self):
        disk = self.make_file("a.img", MIB)
        self.check("0 8 linear /nowhere/b.img 0", "/nowhere/b.img", "No such file")
        self.check(f"0 2049 linear {disk} 0", disk)
        self.check(f"0 2048 linear {disk} 1", disk)
        self.check(f"0 8 linear {self.folder} 0", self.folder)

    def test_bad_parameters(self):
        self.assertIn("nothing to serve", self.refuse())
        self.assertIn("unknown parameter 'tabel'", self.refuse("tabel=0 8 zero"))
        self.assertIn("NAME:TABLE", self.refuse("device=0 8 zero"))
        self.assertIn("/nowhere", self.refuse("table=@/nowhere"))
        self.assertIn("/nowhere", self.refuse("config=/nowhere"))
        self.assertIn("elsewhere", self.refuse("table=0 8 zero", "default=elsewhere"))

    def test_bad_device_names(self):
        self.refuse("device=a/b:0 8 zero")
        self.refuse("device=" + "n" * 128 + ":0 8 zero")


class Daemon(harness.Case):
    """nbdkit's own way into the background: it forks, and changes directory."""

    def test_serves_after_forking_with_paths_relative_to_where_it_started(self):
        disk = self.make_file("a.img", MIB, seed=1)
        self.write_text("a.table", f"0 2048 linear {disk} 0\n")
        socket, pidfile = self.path("d.sock"), self.path("pid")
        # Into the background: without a pipe, which the daemon would keep open.
        done = subprocess.run(
            ["nbdkit", "-U", socket, "-P", pidfile, harness.PLUGIN, "table=@a.table",
             "control=control.sock"], cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False)
        self.assertEqual(done.returncode, 0)
        pid = int(harness.wait_until(lambda: os.path.exists(pidfile) and
                                     self.read_file(pidfile).strip(), "the pid file is there"))
        self.addCleanup(self.end, pid)
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
        client = harness.nbd.NBD()
        client.connect_unix(socket)
        self.assertEqual(client.pread(SECTOR, 0), harness.pattern(MIB, 1)[:SECTOR])
        harness.wait_until(lambda: os.path.exists(self.path("control.sock")), "the control socket")
        client.shutdown()
        os.kill(pid, harness.signal.SIGTERM)
        harness.wait_until(lambda: not self.runs(pid), "the daemon ended", 20)

    @staticmethod
    def runs(pid):
        """False for a zombie too: whoever reaps it may be slow."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                return not re.search(r"\) [ZX] ", stat.read())
        except OSError:
            return False

    def end(self, pid):
        if self.runs(pid):
            os.kill(pid, harness.signal.SIGKILL)


if __name__ == "__main__":
    harness.unittest.main()
