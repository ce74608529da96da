"""The dump stream over TCP: by a sender of its own, and by blockloom-dump."""

import os
import socket
import subprocess
import threading
import time
import unittest

import dump_support
import dumpstream
import harness
from cutting_proxy import CuttingProxy
from dumpstream import DATA, DONE, PING, REFUSE, WELCOME, ZERO, Sender, flattened

BLOCKLOOM_DUMP = os.path.join(harness.BUILD, "clients/blockloom-dump/blockloom-dump")
WITH_SENDER = unittest.skipIf(os.environ.get("BLOCKLOOM_SANITIZER"),
                              "blockloom-dump is static, and not part of a sanitizer's build")
DMESG = b"[    1.000000] booting\n[   99.000000] Kernel panic - not syncing: made up 12\n"


class Stream(dump_support.Case):
    def start(self, more="", **how):
        return self.start_dumps(listen=["stream"], more=more, **how)

    def sender(self, **how):
        sender = Sender(self.port("stream"), **how)
        self.addCleanup(sender.close)
        return sender

    def test_a_dump_arrives_whole_with_its_dmesg(self):
        self.start()
        image = harness.pattern(1_000_001, 1)
        done = self.sender(release="6.1.0-18-amd64", machine="x86_64").dump(image, DMESG)
        self.assertEqual(done["state"], "complete")
        dump = self.one_dump("web1")
        self.assertEqual(done["id"], dump["id"])
        self.assertEqual((dump["state"], dump["bytes"], dump["length"]),
                         ("complete", len(image), len(image)))
        self.assertEqual(dump["panic"], "Kernel panic - not syncing: made up 12")
        self.assertEqual((dump["kernel"], dump["machine"]), ("6.1.0-18-amd64", "x86_64"))
        self.assertEqual(self.image_of(dump), image)
        self.assertEqual(self.file_of(dump, "dmesg.txt"), DMESG)
        self.assertEqual(self.wait_digest(dump)["sha256"], dump_support.digest(image))
        self.assertTrue(self.server.rpc("dump_verify", {"dump": dump["id"]})["good"])

    def test_the_panic_is_known_before_the_image_has_come(self):
        self.start()
        sender = self.sender()
        sender.connect()
        sender.dmesg(DMESG)
        harness.wait_until(lambda: self.dumps() and self.dumps()[0]["panic"], "the panic's line")
        self.assertEqual(self.one_dump()["state"], "receiving")

    def test_an_ack_means_that_it_is_there_after_a_kill(self):
        self.start()
        sender = self.sender(window=2 * dumpstream.CHUNK)
        image = harness.pattern(10 * dumpstream.CHUNK + 5, 2)
        sender.connect()
        sender.data(image, end=6 * dumpstream.CHUNK)
        sender.wait_ack(4 * dumpstream.CHUNK)
        acked = sender.acked
        self.server.kill()
        dump_id = self.only_dump()
        stored = self.read_file(os.path.join(self.store, dump_id, "vmcore-incomplete"))
        self.assertEqual(stored[:acked], image[:acked])
        self.restart_dumps(listen=("stream",))
        sender.port = self.port("stream")
        kind, offset, _ = sender.connect()
        self.assertEqual(kind, WELCOME)
        self.assertGreaterEqual(offset, acked)
        sender.data(image, start=offset)
        self.assertEqual(sender.end(image)["state"], "complete")
        dump = self.one_dump()
        self.assertEqual(dump["id"], dump_id)
        self.assertEqual(self.image_of(dump), image)

    def only_dump(self):
        (host,) = [n for n in os.listdir(self.store) if not n.startswith(".")]
        (when,) = os.listdir(os.path.join(self.store, host))
        return f"{host}/{when}"

    def test_a_broken_connection_is_taken_up_again(self):
        self.start()
        sender = self.sender()
        image = harness.pattern(20 * dumpstream.CHUNK, 3)
        end = 0
        for cut in (3, 9, 10, 16):
            kind, offset, _ = sender.connect()
            self.assertEqual(kind, WELCOME)
            sender.data(image, start=offset, end=cut * dumpstream.CHUNK)
            # In the middle of a chunk's frame.
            sender.socket.sendall(dumpstream.frame(DATA, cut * dumpstream.CHUNK, image[:777])[:100])
            sender.close()
            self.assertGreaterEqual(offset, end)
            end = offset
        _, offset, _ = sender.connect()
        sender.data(image, start=offset)
        self.assertEqual(sender.end(image)["state"], "complete")
        self.assertEqual(self.image_of(self.one_dump()), image)

    def test_a_second_connection_takes_over_the_first(self):
        self.start()
        sender = self.sender()
        image = harness.pattern(30 * dumpstream.CHUNK, 4)
        sender.connect()
        sender.data(image, end=20 * dumpstream.CHUNK)
        old = sender.socket
        sender.socket = None
        _, offset, _ = sender.connect()
        sender.data(image, start=offset)
        self.assertEqual(sender.end(image)["state"], "complete")
        self.assertEqual(self.image_of(self.one_dump()), image)
        old.close()

    def test_an_end_whose_answer_was_lost_is_answered_again(self):
        self.start()
        sender = self.sender()
        image = harness.pattern(100_000, 5)
        sender.dump(image)
        kind, _, answer = sender.connect()
        self.assertEqual((kind, answer["state"]), (DONE, "complete"))
        self.assertEqual(len(self.dumps()), 1)

    def test_zeros_are_holes_and_read_as_zeros(self):
        self.start()
        sender = self.sender()
        piece = harness.pattern(dumpstream.CHUNK, 6)
        image = piece + bytes(100 * dumpstream.CHUNK) + piece
        sender.connect()
        sender.put(DATA, 0, piece)
        sender.put(ZERO, dumpstream.CHUNK, (100 * dumpstream.CHUNK).to_bytes(8, "big"))
        sender.put(DATA, 101 * dumpstream.CHUNK, piece)
        self.assertEqual(sender.end(image)["state"], "complete")
        dump = self.one_dump()
        self.assertEqual(self.image_of(dump), image)
        path = os.path.join(self.store, dump["id"], "vmcore")
        self.assertLess(os.stat(path).st_blocks * 512, 1 << 20)

    def test_what_is_not_whole_is_never_called_complete(self):
        self.start()
        image = harness.pattern(200_000, 7)
        sender = self.sender()
        sender.connect()
        sender.data(image)
        answer = sender.end(image, wrong=b"x" * 32)
        self.assertEqual((answer["state"], answer["reason"]), ("incomplete", "digest"))
        sender = self.sender(host="web2")
        sender.connect()
        sender.data(image)
        sender.put(dumpstream.ABORT, len(image), b"message=cannot read\n")
        self.assertEqual(sender.wait(DONE)["reason"], "sender")
        self.assertEqual(self.one_dump("web2")["state"], "incomplete")

    def test_bad_frames_end_the_connection_and_not_the_dump(self):
        self.start()
        image = harness.pattern(5 * dumpstream.CHUNK, 8)
        sender = self.sender()
        bad = {
            "garbage": b"\0" * 64,
            "a wrong CRC": dumpstream.frame(DATA, dumpstream.CHUNK, b"x" * 100, body_crc=1),
            "a gap": dumpstream.frame(DATA, 4 * dumpstream.CHUNK, b"x" * 100),
            "too long": dumpstream.frame(DATA, dumpstream.CHUNK, b"", length=1 << 31),
            "no such type": dumpstream.frame(99),
            "an endless zero": dumpstream.frame(ZERO, dumpstream.CHUNK, b"\xff" * 8),
            "an end without a digest": dumpstream.frame(dumpstream.END, 0, b"x"),
        }
        for name, packet in bad.items():
            with self.subTest(name):
                kind, offset, _ = sender.connect()
                self.assertEqual(kind, WELCOME)
                sender.data(image, start=offset, end=dumpstream.CHUNK)
                sender.socket.sendall(packet)
                with self.assertRaises((ConnectionError, AssertionError)):
                    sender.wait(PING)
        _, offset, _ = sender.connect()
        sender.data(image, start=offset)
        self.assertEqual(sender.end(image)["state"], "complete")
        self.assertEqual(self.image_of(self.one_dump()), image)

    def test_hellos_that_are_refused(self):
        self.start()
        for hello in ({"host": "../../etc"}, {"chunk": 1000}, {"kind": "jpeg"}, {"host": ""}):
            with self.subTest(hello):
                kind, _, answer = self.sender(**hello).connect()
                self.assertEqual((kind, answer["code"]), (REFUSE, "invalid"))
        self.assertEqual(self.dumps(), [])

    def test_a_token_is_asked_for(self):
        secret = self.write_text("tokens", "# of the web servers\nsecret one\nsecret two\n")
        self.start(more=f'token_file = "{secret}"\n')
        for token in (None, "wrong"):
            kind, _, answer = self.sender(token=token).connect()
            self.assertEqual((kind, answer["code"]), (REFUSE, "permission"))
        self.assertEqual(self.sender(token="secret two").dump(b"x" * 100)["state"], "complete")

    def test_quotas_refuse_and_what_came_stays(self):
        self.start(more='quota_host = "1MiB"\n')
        sender = self.sender()
        image = harness.pattern(40 * dumpstream.CHUNK, 9)
        sender.connect()
        try:
            sender.data(image)
        except OSError:
            pass  # it hung up
        dump = self.wait_over()
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "no_space"))
        stored = self.image_of(dump)
        self.assertEqual(stored, image[:len(stored)])
        kind, _, answer = self.sender().connect()
        self.assertEqual((kind, answer["code"]), (REFUSE, "no_space"))

    def test_a_sender_that_goes_away_times_out(self):
        self.start(more='timeout = "1s"\n')
        sender = self.sender()
        sender.connect()
        image = harness.pattern(3 * dumpstream.CHUNK, 10)
        sender.data(image)
        sender.close()
        dump = self.wait_over()
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "timeout"))
        self.assertEqual(self.image_of(dump), image)

    def test_many_at_once(self):
        self.start()
        images = [harness.pattern(700_000 + i, i) for i in range(8)]
        senders = [self.sender(host=f"m{i}") for i in range(8)]
        threads = [threading.Thread(target=s.dump, args=(i,)) for s, i in zip(senders, images)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, image in enumerate(images):
            self.assertEqual(self.image_of(self.one_dump(f"m{i}")), image)


class Flattened(dump_support.Case):
    def send(self, stream, host="flat"):
        sender = Sender(self.port("stream"), host=host)
        self.addCleanup(sender.close)
        return sender.dump(stream)

    def test_it_is_rearranged_on_receipt(self):
        self.start_dumps(listen=["stream"])
        data = harness.pattern(300_000, 1)
        records = [(4096, data[:100_000]), (104_096, data[100_000:]), (0, b"KDUMP   " + b"\1" * 4088),
                   (4096, b"later wins")]
        self.assertEqual(self.send(flattened(records) + b"what follows is ignored")["state"],
                         "complete")
        expected = b"KDUMP   " + b"\1" * 4088 + b"later wins" + data[10:]
        self.assertEqual(self.image_of(self.one_dump()), expected)

    def test_broken_streams_are_incomplete(self):
        self.start_dumps(listen=["stream"])
        good = flattened([(0, b"x" * 5000)])
        cases = {
            "no-end": good[:-16], "cut": good[:-20], "half-end": good[:-1],
            "negative": flattened([(0, b"x")], end=False) + b"\xff" * 8 + b"\0" * 7 + b"\5" + b"yyyyy",
            "huge": flattened([], end=False) + (1 << 62).to_bytes(8, "big") + b"\0" * 7 + b"\5yyyyy",
            "size0": flattened([], end=False) + b"\0" * 16 + b"\xff" * 16,
            "version": good[:31] + b"\2" + good[32:],
        }
        for name, stream in cases.items():
            with self.subTest(name):
                answer = self.send(stream, name)
                self.assertEqual((answer["state"], answer["reason"]), ("incomplete", "malformed"))

    def test_it_goes_on_after_a_kill_in_the_middle_of_a_record(self):
        self.start_dumps(listen=["stream"])
        data = harness.pattern(12 * dumpstream.CHUNK, 2)
        stream = flattened([(i * 50_000, data[i * 50_000:(i + 1) * 50_000]) for i in range(15)])
        sender = Sender(self.port("stream"), window=2 * dumpstream.CHUNK)
        self.addCleanup(sender.close)
        sender.connect()
        sender.data(stream, end=5 * dumpstream.CHUNK)
        sender.wait_ack(2 * dumpstream.CHUNK)
        self.server.kill()
        self.restart_dumps(listen=("stream",))
        _, offset, _ = sender.connect()
        self.assertGreater(offset, 0)
        sender.data(stream, start=offset)
        self.assertEqual(sender.end(stream)["state"], "complete")
        self.assertEqual(self.image_of(self.one_dump()), data[:750_000])

    def test_as_makedumpfile_rearranges_it(self):
        makedumpfile = "/usr/bin/makedumpfile"
        if not os.path.exists(makedumpfile):
            self.skipTest("makedumpfile is not installed")
        self.start_dumps(listen=["stream"])
        data = harness.pattern(200_000, 3)
        stream = flattened([(0, data[:70_000]), (140_000, data[140_000:]), (70_000, data[70_000:140_000])])
        with open(self.path("flat"), "wb") as file:
            file.write(stream)
        with open(self.path("flat"), "rb") as file:
            subprocess.run([makedumpfile, "-R", self.path("theirs")], stdin=file, check=True,
                           timeout=60, stdout=subprocess.DEVNULL)
        self.send(stream)
        self.assertEqual(self.image_of(self.one_dump()), self.read_file(self.path("theirs")))


@WITH_SENDER
class Program(dump_support.Case):
    """blockloom-dump itself."""

    def start(self, more=""):
        return self.start_dumps(listen=["stream"], more=more)

    def send(self, *words, check=True, stdin=subprocess.DEVNULL, port=None):
        done = subprocess.run([BLOCKLOOM_DUMP, "send", "--to",
                               f"127.0.0.1:{port or self.port('stream')}", *words], stdin=stdin,
                              capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_a_file_with_its_dmesg(self):
        self.start()
        path = self.make_file("core", 5_000_001, 1)
        with open(self.path("dmesg"), "wb") as file:
            file.write(DMESG)
        done = self.send("--host", "box", "--dmesg", self.path("dmesg"), path)
        self.assertIn("complete", done.stderr)
        dump = self.one_dump("box")
        self.assertEqual(self.image_of(dump), self.read_file(path))
        self.assertEqual(dump["panic"], "Kernel panic - not syncing: made up 12")

    def test_a_pipe_and_zeros(self):
        self.start()
        image = harness.pattern(300_000, 2) + bytes(3 << 20) + harness.pattern(77, 3)
        with open(self.path("in"), "wb") as file:
            file.write(image)
        with subprocess.Popen(["cat", self.path("in")], stdout=subprocess.PIPE) as cat:
            self.send("--host", "pipe", "--window", "1048576", "-", stdin=cat.stdout)
        self.assertEqual(self.image_of(self.one_dump("pipe")), image)

    def test_the_connection_is_cut_twice(self):
        self.start()
        path = self.make_file("core", 30 << 20, 4)
        for source in ("file", "pipe"):
            with self.subTest(source):
                proxy = CuttingProxy(self.port("stream"), [3 << 20, 11 << 20])
                self.addCleanup(proxy.close)
                words = ["--host", source, "--window", "4194304"]
                if source == "file":
                    done = self.send(*words, path, port=proxy.port)
                else:
                    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
                        done = self.send(*words, "-", stdin=cat.stdout, port=proxy.port)
                self.assertEqual(proxy.cuts, 2)
                self.assertIn("goes on at", done.stderr)
                dump = self.one_dump(source)
                self.assertEqual(dump["state"], "complete")
                self.assertEqual(self.image_of(dump), self.read_file(path))

    def test_exit_codes(self):
        self.start(more='quota_dump = "1MiB"\n')
        self.assertEqual(self.send("/nonexistent", check=False).returncode, 1)
        self.assertEqual(self.send("--chunk", "5", check=False).returncode, 2)
        big = self.make_file("big", 4 << 20, 5)
        self.assertEqual(self.send(big, check=False).returncode, 4)
        half = self.path("half")
        with open(half, "wb") as file:
            file.write(flattened([(0, b"x" * 1000)], end=False))
        self.assertEqual(self.send("--host", "half", half, check=False).returncode, 3)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            began = time.monotonic()
            done = self.send("--deadline", "2", half, check=False, port=nobody.getsockname()[1])
            self.assertEqual(done.returncode, 5)
            self.assertLess(time.monotonic() - began, 30)

    def test_the_server_restarts_under_it(self):
        self.start()
        path = self.make_file("core", 64 << 20, 6)
        proxy = CuttingProxy(self.port("stream"), [], slow=True)
        self.addCleanup(proxy.close)
        sender = self.spawn(BLOCKLOOM_DUMP, "send", "--to", f"127.0.0.1:{proxy.port}", "--host", "r",
                            "--window", "4194304", path, stderr=subprocess.DEVNULL)
        harness.wait_until(lambda: self.dumps("r") and self.dumps("r")[0]["bytes"] > 8 << 20,
                           "some of it is here")
        self.server.kill()
        proxy.cut_all()
        self.restart_dumps(listen=("stream",))
        proxy.slow = False
        self.assertEqual(sender.wait(harness.PATIENCE), 0)
        dump = self.one_dump("r")
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), self.read_file(path))


@WITH_SENDER
class Receive(dump_support.Case):
    """The forced command for sshd, with what kdump's scripts run."""

    def setUp(self):
        super().setUp()
        self.box = self.path("box")
        os.mkdir(self.box)

    def ssh(self, command, data=b"", check=True):
        done = subprocess.run([BLOCKLOOM_DUMP, "receive", "--dir", self.box],
                              input=data, capture_output=True, timeout=harness.PATIENCE, check=False,
                              env={"SSH_ORIGINAL_COMMAND": command})
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_what_the_distributions_send(self):
        data = harness.pattern(700_000, 1)
        self.ssh("mkdir -p /var/crash/10.0.0.5-2026-01-02-03:04:05")
        place = "var/crash/10.0.0.5-2026-01-02-03:04:05"
        self.ssh(f"umask 0077 && dd bs=512 of='/{place}/vmcore-incomplete'", data)
        self.ssh(f"mv '/{place}/vmcore-incomplete' '/{place}/vmcore.flat'")
        self.assertEqual(self.read_file(self.path(f"box/{place}/vmcore.flat")), data)
        self.assertEqual(os.stat(self.path(f"box/{place}/vmcore.flat")).st_mode & 0o777, 0o600)
        self.ssh("umask 077; true", check=False)
        self.ssh("mkdir -p suse && cat > suse/vmcore", data)
        self.assertEqual(self.read_file(self.path("box/suse/vmcore")), data)
        self.ssh("scp -t suse", b"C0644 5 dmesg.txt\nhello\0")
        self.assertEqual(self.read_file(self.path("box/suse/dmesg.txt")), b"hello")

    def test_nothing_else(self):
        os.mkdir(self.path("box/in"))
        os.mkdir(self.path("outside"))
        os.symlink(self.path("outside"), self.path("box/link"))
        for command in ("", "sh", "ls", "cat /etc/passwd", "cat > ../x", "cat > in/../../x",
                        "cat > link/x", "dd of=in/x if=/etc/passwd", "cat > $(id)", "cat > `id`",
                        "mkdir -p a; id", "mkdir -p a | sh", "cat > .hidden", "mv in/a ../../b",
                        "scp -f in/a", "mkdir -p a && sh", "cat > a & sh", "cat > \"$HOME\""):
            with self.subTest(command):
                self.assertNotEqual(self.ssh(command, b"x", check=False).returncode, 0)
        self.assertEqual(sorted(os.listdir(self.box)), ["in", "link"])
        self.assertEqual(os.listdir(self.path("box/in")), [])
        self.assertEqual(os.listdir(self.path("outside")), [])
        self.assertEqual(sorted(os.listdir(self.folder)), ["box", "outside"])
