"""blockloomd: listeners of every kind, opened and inherited, TLS, filters, giving up root."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import unittest

import daemon
import harness
from harness import MIB, pattern


class Listeners(daemon.Case):
    def test_serves_tcp_and_unix_at_once(self):
        folder, port = self.new_folder(), daemon.free_port()
        self.configure(folder, daemon.device("m", "0 2048 linear mem:1M 0"),
                       listen=[f"unix:{folder}/nbd.sock", f"tcp:127.0.0.1:{port}"])
        server = self.run_daemon(folder)
        local = self.connect(server, "m")
        remote = self.connect(server, uri=f"nbd://127.0.0.1:{port}/m")
        local.pwrite(pattern(4096, 1), 8192)
        self.assertEqual(remote.pread(4096, 8192), pattern(4096, 1))

    def test_localhost_is_ipv4_and_ipv6(self):
        folder, port = self.new_folder(), daemon.free_port()
        self.configure(folder, daemon.device("z", "0 8 zero"), listen=[f"tcp:localhost:{port}"])
        server = self.run_daemon(folder)
        self.connect(server, uri=f"nbd://127.0.0.1:{port}/z")
        if not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("this machine has no IPv6: only IPv4 was tried")
        with open("/proc/net/if_inet6", encoding="utf-8") as file:
            if " lo" not in file.read():
                self.skipTest("lo has no IPv6 address: only IPv4 was tried")
        self.connect(server, uri=f"nbd://[::1]:{port}/z")

    def test_serves_inherited_sockets(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("m", "0 2048 linear mem:1M 0"), listen=[])
        command = [harness.BLOCKLOOMD, "--plugin", os.path.abspath(harness.PLUGIN),
                   f"{folder}/blockloom.toml"]
        server = self.start(folder, command, environment={"LISTEN_FDNAMES": "nbd:tcp"})
        local = self.connect(server, "m")
        remote = self.connect(server, uri=server.tcp_uri("m"))
        remote.pwrite(pattern(512, 2), 0)
        self.assertEqual(local.pread(512, 0), pattern(512, 2))

    def test_an_inherited_socket_takes_the_place_of_the_configured_one(self):
        folder, port = self.new_folder(), daemon.free_port()
        self.configure(folder, daemon.device("z", "0 8 zero"),
                       listen=[f"unix:{folder}/nbd.sock", f"tcp:127.0.0.1:{port}"])
        command = [harness.BLOCKLOOMD, "--plugin", os.path.abspath(harness.PLUGIN),
                   f"{folder}/blockloom.toml"]
        server = self.start(folder, command)
        self.connect(server, "z")
        self.connect(server, uri=server.tcp_uri("z"))  # inherited, and configured nowhere
        self.connect(server, uri=f"nbd://127.0.0.1:{port}/z")  # configured, and not inherited

    def test_an_inherited_public_socket_is_refused(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("z", "0 8 zero"), listen=[])
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as public:
            public.bind(("0.0.0.0", 0))
            public.listen()
            fd = public.fileno()
            done = subprocess.run(
                ["/bin/bash", "-c", f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{fd}', "bash",
                 harness.BLOCKLOOMD, "--plugin", os.path.abspath(harness.PLUGIN),
                 f"{folder}/blockloom.toml"],
                pass_fds=[fd], capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("inherited socket 3", done.stderr)
        self.assertIn("is public", done.stderr)

    def test_what_is_inherited_has_to_listen(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("z", "0 8 zero"), listen=[])
        done = subprocess.run(
            ["/bin/bash", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3</dev/null', "bash",
             harness.BLOCKLOOMD, "--plugin", os.path.abspath(harness.PLUGIN),
             f"{folder}/blockloom.toml"],
            capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("inherited socket 3", done.stderr)
        self.assertIn("expected a stream socket that listens", done.stderr)

    def test_a_stale_socket_is_replaced_and_a_live_one_is_not(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("z", "0 8 zero"))
        first = self.run_daemon(folder)
        first.kill()
        self.assertTrue(os.path.exists(first.socket))
        second = self.run_daemon(folder)
        self.connect(second, "z")
        third = self.blockloomd(second.config)
        self.assertEqual(third.returncode, 3)
        self.assertIn(f"cannot listen on 'unix:{second.socket}'", third.stderr)
        self.assertIn("another server listens there", third.stderr)
        self.connect(second, "z")

    def test_a_file_that_is_no_socket_is_left_alone(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("z", "0 8 zero"))
        self.write_text("s1/nbd.sock", "precious")
        done = self.blockloomd(f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 3)
        self.assertIn("cannot listen on", done.stderr)
        self.assertEqual(self.read_file(f"{folder}/nbd.sock"), b"precious")

    def test_the_mode_of_a_unix_socket(self):
        folder = self.new_folder()
        self.write_text("s1/blockloom.toml", f"""
[server]
listen = ["unix:{folder}/nbd.sock", {{address = "unix:{folder}/other.sock", mode = "0600"}}]
""" + daemon.device("z", "0 8 zero"))
        self.run_daemon(folder)
        modes = [stat.S_IMODE(os.stat(f"{folder}/{name}").st_mode)
                 for name in ("nbd.sock", "other.sock")]
        self.assertEqual(modes, [0o660, 0o600])

    def test_a_taken_port_is_told(self):
        folder = self.new_folder()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.configure(folder, "", listen=[f"tcp:127.0.0.1:{port}"])
            done = self.blockloomd(f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 3)
        self.assertIn(f"cannot listen on 'tcp:127.0.0.1:{port}': Address already in use",
                      done.stderr)

    def test_a_public_listener_without_tls_is_refused(self):
        folder, port = self.new_folder(), daemon.free_port()
        listen = [f"tcp:0.0.0.0:{port}"]
        self.configure(folder, daemon.device("z", "0 8 zero"), listen=listen)
        done = self.blockloomd(f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{folder}/blockloom.toml:2:11: listener 'tcp:0.0.0.0:{port}' is public",
                      done.stderr)
        self.assertIn("insecure = true", done.stderr)
        self.configure(folder, daemon.device("z", "0 8 zero"), listen=listen, more="insecure = true")
        server = self.run_daemon(folder)
        self.connect(server, uri=f"nbd://127.0.0.1:{port}/z")


class Service(daemon.Case):
    def test_tells_the_service_manager_that_it_is_ready_and_that_it_stops(self):
        server = self.start_daemon(daemon.device("z", "0 8 zero"))
        self.assertEqual(server.notices[-1]["STATUS"], "serving 1 device")
        self.connect(server, "z")
        server.signal(signal.SIGTERM)
        self.assertEqual(server.notice("STOPPING")["STOPPING"], "1")
        self.assertEqual(server.wait_end(), 0)

    def test_answers_the_watchdog(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("z", "0 8 zero"))
        server = self.run_daemon(folder, environment={"WATCHDOG_USEC": "200000"})
        for _ in range(3):
            self.assertEqual(server.notice("WATCHDOG")["WATCHDOG"], "1")

    def test_the_process_is_the_one_that_was_started(self):
        server = self.start_daemon(daemon.device("z", "0 8 zero"))
        with open(f"/proc/{server.pid}/comm", encoding="utf-8") as comm:
            self.assertEqual(comm.read().strip(), "nbdkit")

    def test_a_device_without_its_leg_keeps_the_others_serving(self):
        server = self.start_daemon(daemon.device("z", "0 8 zero") +
                                   daemon.device("gone", "0 8 linear /no/such/leg 0"))
        self.assertEqual(server.notices[-1]["STATUS"],
                         "serving 2 devices, 1 of them without a table")
        self.assertIn("/no/such/leg", server.log())
        self.connect(server, "z")

    def test_the_default_device(self):
        text = daemon.device("a", "0 8 zero") + daemon.device("b", "0 16 zero")
        server = self.start_daemon(text, more='default_device = "b"')
        self.assertEqual(self.connect(server, "").get_size(), 16 * 512)

    def test_names_that_are_not_advertised_still_open(self):
        server = self.start_daemon(daemon.device("a", "0 8 zero"), more="advertise = false")
        client = harness.nbd.NBD()
        client.set_opt_mode(True)
        client.connect_unix(server.socket)
        names = []
        client.opt_list(lambda name, _description: names.append(name) or 0)
        client.opt_abort()
        self.assertNotIn("a", names)
        self.assertEqual(self.connect(server, "a").get_size(), 8 * 512)

    def test_gives_up_root(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to have something to give up")
        os.chmod(self.folder, 0o755)
        disk = self.make_file("disk", MIB)
        nobody = pwd.getpwnam("nobody")
        os.chown(disk, nobody.pw_uid, nobody.pw_gid)
        folder = self.new_folder()
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self.configure(folder, daemon.device("d", f"0 2048 linear {disk} 0"), state=True,
                       more='user = "nobody"')
        plugin = shutil.copy(harness.PLUGIN, self.folder)  # the build tree may be root's alone
        server = self.run_daemon(folder, plugin=plugin)
        with open(f"/proc/{server.pid}/status", encoding="utf-8") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines())
        self.assertEqual(set(status["Uid"].split()), {str(nobody.pw_uid)})
        self.assertEqual(set(status["Gid"].split()), {str(nobody.pw_gid)})
        self.assertNotIn("0", status["Groups"].split())
        self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(os.stat(server.socket).st_uid, nobody.pw_uid)
        self.connect(server, "d").pwrite(pattern(512, 1), 0)

    def test_an_unknown_user_is_told(self):
        folder = self.new_folder()
        self.configure(folder, "", more='user = "no-such-user"')
        done = self.blockloomd(f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 3)
        self.assertIn("server.user 'no-such-user'", done.stderr)


class Filters(daemon.Case):
    def test_filters_stand_in_front(self):
        folder = self.new_folder()
        stats = f"{folder}/stats"
        self.configure(folder, daemon.device("m", "0 2048 linear mem:1M 0"), more=(
            f'filters = [{{name = "stats", params = {{statsfile = "{stats}"}}}}, '
            '{name = "cow"}]'))
        server = self.run_daemon(folder)
        client = self.connect(server, "m")
        client.pwrite(pattern(4096, 1), 0)
        self.assertEqual(client.pread(4096, 0), pattern(4096, 1))
        self.hang_up(client)
        self.assertEqual(server.terminate(), 0)
        text = self.read_file(stats).decode()
        self.assertIn("read: 1 ops", text)
        self.assertIn("write: 1 ops", text)

    def test_a_filter_that_is_not_there_is_told_by_check(self):
        folder = self.new_folder()
        self.configure(folder, "", more='filters = [{name = "nonesuch"}]')
        done = self.blockloomd("--check", f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn("filter 'nonesuch'", done.stderr)


@unittest.skipUnless(shutil.which("psktool") and shutil.which("certtool"),
                     "needs psktool and certtool (gnutls-bin)")
class Tls(daemon.Case):
    def connect_tls(self, server, tls, **settings):
        client = harness.nbd.NBD()
        client.set_tls(tls)
        for name, value in settings.items():
            getattr(client, f"set_tls_{name}")(value)
        client.set_export_name("m")
        client.connect_unix(server.socket)
        self.addCleanup(self.hang_up, client)
        return client

    def test_keys_are_required(self):
        keys = self.path("keys.psk")
        self.command("psktool", "-u", "alice", "-p", keys)
        server = self.start_daemon(daemon.device("m", "0 2048 linear mem:1M 0") +
                                   f'[tls]\nmode = "require"\npsk = "{keys}"\n')
        client = self.connect_tls(server, harness.nbd.TLS_REQUIRE, username="alice", psk_file=keys)
        client.pwrite(pattern(512, 1), 0)
        self.assertEqual(client.pread(512, 0), pattern(512, 1))
        self.assertTrue(client.get_tls_negotiated())
        with self.assertRaises(harness.nbd.Error):
            self.connect(server, "m")
        other = self.path("other.psk")
        self.command("psktool", "-u", "alice", "-p", other)
        with self.assertRaises(harness.nbd.Error):
            self.connect_tls(server, harness.nbd.TLS_REQUIRE, username="alice", psk_file=other)

    def certificate(self, folder, name, template, ca=True):
        self.write_text(f"{name}.info", template)
        self.command("certtool", "--generate-privkey", "--ecc", "--outfile", f"{folder}/{name}-key.pem")
        words = ["--generate-self-signed"] if not ca else [
            "--generate-certificate", "--load-ca-certificate", f"{folder}/ca-cert.pem",
            "--load-ca-privkey", f"{folder}/ca-key.pem"]
        self.command("certtool", *words, "--load-privkey", f"{folder}/{name}-key.pem", "--template",
                     self.path(f"{name}.info"), "--outfile", f"{folder}/{name}-cert.pem")

    def test_certificates_of_both_sides(self):
        pki = self.path("pki")
        os.mkdir(pki)
        self.certificate(pki, "ca", "cn = test\nca\ncert_signing_key\n", ca=False)
        self.certificate(pki, "server", "cn = localhost\ndns_name = localhost\ntls_www_server\n"
                                        "signing_key\nencryption_key\n")
        self.certificate(pki, "client", "cn = client\ntls_www_client\nsigning_key\n")
        bare = self.path("bare")
        os.mkdir(bare)
        shutil.copy(f"{pki}/ca-cert.pem", bare)
        server = self.start_daemon(
            daemon.device("m", "0 2048 linear mem:1M 0") +
            f'[tls]\nmode = "require"\ncertificates = "{pki}"\nverify_peer = true\n')
        client = self.connect_tls(server, harness.nbd.TLS_REQUIRE, certificates=pki,
                                  verify_peer=False)
        client.pread(512, 0)
        with self.assertRaises(harness.nbd.Error):
            self.connect_tls(server, harness.nbd.TLS_REQUIRE, certificates=bare,
                             verify_peer=False).pread(512, 0)
