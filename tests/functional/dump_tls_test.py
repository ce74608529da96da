"""The dump stream over TLS: by a sender of the tests' own, and by blockloom-dump-tls."""

import os
import socket
import ssl
import subprocess
import threading

import dump_support
import dumpstream
import harness
from cutting_proxy import CuttingProxy
from dump_stream_test import BLOCKLOOM_DUMP, WITH_SENDER
from dumpstream import GREETING, REFUSE, START_TLS, WELCOME, Sender

BLOCKLOOM_DUMP_TLS = BLOCKLOOM_DUMP + "-tls"
KEY, OTHER_KEY = "00112233445566778899aabbccddeeff" * 2, "ff" * 32


class Case(dump_support.Case):
    def start(self, mode="require", **keys):
        lines = ["[dump.tls]", f'mode = "{mode}"']
        lines += [f"{name} = {value}" for name, value in keys.items()]
        return self.start_dumps(listen=["stream"], more="\n".join(lines) + "\n")

    def psk(self, text=f"web1:{KEY}\n", name="keys.psk"):
        return f'"{self.write_text(name, text)}"'

    def sender(self, **how):
        sender = Sender(self.port("stream"), **how)
        self.addCleanup(sender.close)
        return sender

    def make_certificates(self):
        """A folder with an authority, a server of 127.0.0.1, and a client."""
        folder = self.path("pki")
        os.mkdir(folder)
        self.openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=test CA",
                     "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca-cert.pem")
        for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "keyUsage=digitalSignature")):
            self.openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj",
                         f"/CN={name}", "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE",
                         "-CA", f"{folder}/ca-cert.pem", "-CAkey", f"{folder}/ca-key.pem",
                         "-keyout", f"{folder}/{name}-key.pem", "-out", f"{folder}/{name}-cert.pem")
        return folder

    def openssl(self, *words):
        self.command("openssl", *words)

    def trusting(self, folder, client=False):
        context = ssl.create_default_context(cafile=f"{folder}/ca-cert.pem")
        if client:
            context.load_cert_chain(f"{folder}/client-cert.pem", f"{folder}/client-key.pem")
        return context


class Tls(Case):
    def test_a_dump_over_tls(self):
        folder = self.make_certificates()
        self.start(certificates=f'"{folder}"')
        image = harness.pattern(700_001, 1)
        sender = self.sender(tls=self.trusting(folder))
        self.assertEqual(sender.dump(image, b"[    1.0] Kernel panic - not syncing: secret\n")["state"],
                         "complete")
        self.assertEqual(sender.greeting["tls"], "active")
        self.assertEqual(sender.socket.version(), "TLSv1.3")
        dump = self.one_dump("web1")
        self.assertEqual(self.image_of(dump), image)
        self.assertEqual(dump["panic"], "Kernel panic - not syncing: secret")

    def test_without_it_nothing_is_taken_where_it_is_required(self):
        self.start(psk=self.psk())
        sender = self.sender()
        kind, _, answer = sender.connect()
        self.assertEqual((kind, answer["code"], sender.greeting["tls"]), (REFUSE, "permission", "require"))
        self.assertEqual(self.dumps(), [])

    def test_on_leaves_the_choice_to_the_sender(self):
        folder = self.make_certificates()
        self.start("on", certificates=f'"{folder}"')
        for host, tls in (("plain", None), ("secret", self.trusting(folder))):
            sender = self.sender(host=host, tls=tls)
            self.assertEqual(sender.dump(b"x" * 100_000)["state"], "complete")

    def test_off_says_that_there_is_none(self):
        self.start("off")
        sender = self.sender()
        with socket.create_connection(("127.0.0.1", self.port("stream")), timeout=60) as link:
            sender.socket, sender.file = link, link.makefile("rb")
            sender.hear_greeting()
            self.assertEqual(sender.greeting["tls"], "off")
            sender.put(START_TLS)
            kind, _, body = sender.receive()
            self.assertEqual((kind, dumpstream.parse_lines(body)["code"]), (REFUSE, "not_supported"))
            sender.file.close()

    def test_senders_are_told_apart_by_certificates(self):
        folder = self.make_certificates()
        self.start(certificates=f'"{folder}"', verify_peer="true")
        with self.assertRaises((ssl.SSLError, OSError, ConnectionError)):
            self.sender(tls=self.trusting(folder)).connect()  # in TLS 1.3 the answer tells
        self.assertEqual(self.sender(tls=self.trusting(folder, client=True)).dump(b"x" * 9)["state"],
                         "complete")

    def test_a_handshake_that_is_none_hurts_nobody(self):
        self.start(psk=self.psk())
        for junk in (b"", b"\0" * 100_000, dumpstream.frame(START_TLS), os.urandom(4096)):
            with socket.create_connection(("127.0.0.1", self.port("stream")), timeout=60) as link:
                try:
                    link.sendall(dumpstream.frame(START_TLS) + junk)
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(65536):
                        pass
                except OSError:
                    pass  # it has hung up already
        self.assertEqual(self.dumps(), [])
        self.assertTrue(self.server.alive())

    def test_keys_that_are_none(self):
        for number, (text, word) in enumerate({
                "": "holds no key", "web1\n": "expected USER:KEY", f":{KEY}\n": "expected USER:KEY",
                "web1:xyz\n": "expected USER:KEY", "web1:00\n": "expected USER:KEY"}.items()):
            with self.subTest(text):
                name = self.psk(text, f"keys{number}")
                server = self.start_dumps(listen=["stream"], ready=False,
                                          more=f'[dump.tls]\nmode = "on"\npsk = {name}\n')
                harness.wait_until(lambda s=server: not s.alive(), "it does not start")
                self.assertIn(word, server.log())
                self.assertNotIn(KEY, server.log())

    def test_settings_that_make_no_sense(self):
        for lines, message in {
                'mode = "on"': "TLS needs dump.tls.psk",
                'mode = "maybe"': 'expected "off", "on" or "require"',
                'psk = "/a"\ncertificates = "/b"': "expected certificates or keys, not both",
                'mode = "on"\npsk = "/a"\nverify_peer = true': "it is for certificates"}.items():
            with self.subTest(lines):
                path = self.write_text("bad.toml", f"[dump]\nstore = '/x'\n[dump.tls]\n{lines}\n")
                done = self.blockloomd("--check", path)
                self.assertEqual(done.returncode, 1)
                self.assertIn(message, done.stderr)


@WITH_SENDER
class Program(Case):
    """blockloom-dump-tls."""

    def send(self, *words, program=BLOCKLOOM_DUMP_TLS, port=None, check=True):
        done = subprocess.run([program, "send", "--to", f"127.0.0.1:{port or self.port('stream')}",
                               *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=harness.PATIENCE, check=False)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def key(self, text=f"web1:{KEY}\n"):
        return ["--tls-psk", self.write_text("client.psk", text)]

    def test_a_shared_key(self):
        self.start(psk=self.psk(f"# two\nother:{OTHER_KEY}\nweb1:{KEY}\n"))
        path = self.make_file("core", 5_000_001, 1)
        self.send("--host", "box", *self.key(), path)
        self.assertEqual(self.image_of(self.one_dump("box")), self.read_file(path))

    def test_wrong_keys_are_refused(self):
        self.start(psk=self.psk())
        path = self.make_file("core", 100_000, 1)
        for text in (f"web1:{OTHER_KEY}\n", f"stranger:{KEY}\n"):
            with self.subTest(text):
                done = self.send("--deadline", "1", *self.key(text), path, check=False)
                self.assertEqual(done.returncode, 5, done.stderr)
        self.assertEqual(self.dumps(), [])
        self.assertIn("the TLS handshake failed", self.server.log())

    def test_the_plain_program_is_refused(self):
        self.start(psk=self.psk())
        path = self.make_file("core", 100_000, 1)
        self.assertEqual(self.send(path, program=BLOCKLOOM_DUMP, check=False).returncode, 4)
        done = self.send(*self.key(), path, program=BLOCKLOOM_DUMP, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("blockloom-dump-tls", done.stderr)
        self.assertEqual(self.dumps(), [])

    def test_it_never_sends_in_the_clear_what_was_to_be_encrypted(self):
        self.start("off")
        path = self.make_file("core", 100_000, 1)
        done = self.send("--deadline", "1", *self.key(), path, check=False)
        self.assertEqual(done.returncode, 5)
        self.assertIn("has no TLS", done.stderr)
        self.assertEqual(self.dumps(), [])

    def test_certificates(self):
        folder = self.make_certificates()
        self.start(certificates=f'"{folder}"', verify_peer="true")
        path = self.make_file("core", 3_000_001, 1)
        self.send("--host", "box", "--tls-certificates", folder, path)
        self.assertEqual(self.image_of(self.one_dump("box")), self.read_file(path))
        done = self.send("--deadline", "1", "--tls-certificates", folder, "--tls-name", "other.example",
                         path, check=False)
        self.assertEqual(done.returncode, 5)
        self.assertIn("certificate verify failed", done.stderr)

    def test_it_goes_on_where_the_connection_was_cut(self):
        self.start(psk=self.psk())
        path = self.make_file("core", 30 << 20, 4)
        proxy = CuttingProxy(self.port("stream"), [3 << 20, 11 << 20])
        self.addCleanup(proxy.close)
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            done = subprocess.run([BLOCKLOOM_DUMP_TLS, "send", "--to", f"127.0.0.1:{proxy.port}",
                                   "--host", "cut", "--window", "4194304", *self.key(), "-"],
                                  stdin=cat.stdout, capture_output=True, text=True,
                                  timeout=harness.PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(proxy.cuts, 2)
        self.assertIn("goes on at", done.stderr)
        self.assertEqual(self.image_of(self.one_dump("cut")), self.read_file(path))

    def test_what_was_said_before_tls_is_not_believed(self):
        """Somebody on the way adds a frame to the greeting, for the sender to take as the server's."""
        lines = dumpstream.lines(version=1, nonce="00" * 32, token=0, tls="on")
        forged = dumpstream.frame(GREETING, 0, lines) * 2 + dumpstream.frame(WELCOME)
        listener = socket.create_server(("127.0.0.1", 0))

        def forge():
            link, _ = listener.accept()
            listener.close()
            with link:
                link.sendall(forged)
                link.settimeout(harness.PATIENCE)
                heard.append(link.recv(65536))

        heard = []
        thread = threading.Thread(target=forge)
        thread.start()
        done = self.send("--deadline", "1", *self.key(), self.make_file("core", 100_000, 1),
                         port=listener.getsockname()[1], check=False)
        thread.join()
        self.assertEqual(done.returncode, 5)
        self.assertNotIn(b"host=", heard[0])
        self.assertIn("before TLS", done.stderr)
