"""The store of dumps: restarts in the middle, full disks, the commands, hooks, retention."""

import os
import stat
import threading
import time

import dump_support
import harness
import netdump
from netdump import Client, kernel_dump_header


class Restart(dump_support.Case):
    def test_a_dump_goes_on_after_the_server_was_killed(self):
        self.start_dumps()
        with Client(self.port(), resends=40) as client:
            image = harness.pattern(400_000, 21)
            client.herald()
            client.send_image(image[:144800])
            self.server.kill()
            self.restart_dumps()
            client.send_image(image[144800:], 144800)
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
            self.assertEqual(dump["state"], "complete")
            self.assertEqual(self.image_of(dump), image)

    def test_what_was_not_acknowledged_before_the_kill_is_sent_again(self):
        self.start_dumps()
        with Client(self.port(), resends=60) as client:
            image = harness.pattern(3_000_000, 22)
            client.herald()
            sender = threading.Thread(target=client.send_image, args=(image,))
            sender.start()
            for _ in range(3):
                time.sleep(0.1)
                self.server.kill()
                self.restart_dumps()
            sender.join()
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
            self.assertEqual(dump["state"], "complete")
            self.assertEqual(self.image_of(dump), image)

    def test_an_orderly_end_says_so_and_the_dump_can_still_go_on(self):
        self.start_dumps()
        with Client(self.port(), resends=40) as client:
            image = harness.pattern(200_000, 23)
            client.herald()
            client.send_image(image[:144800])
            self.assertEqual(self.server.terminate(), 0)
            record = self.file_of({"id": self.only_folder()}, "record.json")
            self.assertIn(b'"reason": "shutdown"', record)
            self.restart_dumps()
            client.send_image(image[144800:], 144800)
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
            self.assertEqual(dump["state"], "complete")
            self.assertEqual(self.image_of(dump), image)

    def only_folder(self):
        (host,) = [n for n in os.listdir(self.store) if not n.startswith(".")]
        (when,) = os.listdir(os.path.join(self.store, host))
        return f"{host}/{when}"

    def test_a_client_that_does_not_come_back_leaves_it_incomplete(self):
        self.start_dumps(more='timeout = "2s"\n')
        with Client(self.port()) as client:
            image = harness.pattern(100_000, 24)
            client.herald()
            client.send_image(image)
            self.server.kill()
            self.restart_dumps(more='timeout = "2s"\n')
            dump = self.wait_over(client.address)
            self.assertEqual(dump["state"], "incomplete")
            self.assertEqual(self.image_of(dump), image)


class Space(dump_support.Case):
    def refused_after(self, more, size=3_000_000):
        self.start_dumps(more=more)
        client = Client(self.port(), wait=0.1, resends=3)
        self.addCleanup(client.socket.close)
        client.herald()
        image = harness.pattern(size, 31)
        with self.assertRaises(netdump.GaveUp):
            client.send_image(image)
        dump = self.wait_over(client.address)
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "no_space"))
        stored = self.image_of(dump)
        self.assertEqual(stored, image[:len(stored)])
        self.assertIn("dump_no_space", [e["kind"] for e in self.events()])
        return dump

    def test_quotas_end_a_dump_and_what_came_stays(self):
        for more in ('quota_dump = "1MiB"\n', 'quota_host = "1MiB"\n', 'quota_total = "1MiB"\n'):
            with self.subTest(more):
                dump = self.refused_after(more)
                self.assertLessEqual(dump["bytes"], 1 << 20)
                self.assertGreater(dump["bytes"], 900_000)
                self.assertIn("quota", dump["detail"])

    def test_free_space_is_kept(self):
        self.start_dumps(more='keep_free = "1000TiB"\n')
        with Client(self.port(), wait=0.1, resends=2) as client:
            client.herald()
            with self.assertRaises(netdump.GaveUp):
                client.send_image(b"x" * 1448)
        harness.wait_until(lambda: "dump_no_space" in [e["kind"] for e in self.events()], "the event")
        self.assertEqual(self.dumps(), [])

    def test_a_file_system_that_is_full(self):
        # A limit on the size of files stands for the disk: SIGXFSZ is ignored, EFBIG is no_space.
        self.start_dumps(wrapper=("/bin/bash", "-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"",
                                  "bash"))
        with Client(self.port(), wait=0.1, resends=3) as client:
            client.herald()
            image = harness.pattern(4_000_000, 32)
            with self.assertRaises(netdump.GaveUp):
                client.send_image(image)
            dump = self.wait_over(client.address)
            self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "no_space"))
            stored = self.image_of(dump)
            self.assertGreater(len(stored), 1_000_000)
            self.assertEqual(stored, image[:len(stored)])

    def test_two_servers_do_not_share_a_store(self):
        self.start_dumps()
        folder = self.new_folder()
        self.configure(folder, f'[dump]\nstore = "{self.store}"\nnetdump = ["udp:127.0.0.1:0"]\n')
        second = self.run_daemon(folder, ready=False)
        self.assertNotEqual(second.wait_end(), 0)
        self.assertIn("is in use by another server", second.log())


class Commands(dump_support.Case):
    def blockloom(self, *words, check=True):
        return self.command(harness.BLOCKLOOM, "--socket", self.server.control, "dump", *words,
                            check=check)

    def test_the_commands(self):
        self.start_dumps()
        self.assertEqual(self.blockloom("ls").stdout, "No dumps found\n")
        tested = self.blockloom("test").stdout
        self.assertIn("complete", tested)
        image = netdump.minidump(50_000, b"panic: from the ring\n")
        with Client(self.port()) as client:
            client.dump(image, panic=b"vm_fault: 0xdeadbeef cpu 3")
            address = client.address
        dump = self.one_dump(address)
        listed = self.blockloom("ls").stdout
        self.assertRegex(listed, r"DUMP +HOST +SIZE +STATE +PANIC")
        self.assertIn("vm_fault: 0xdeadbeef cpu 3", listed)
        self.assertIn(dump["id"], self.blockloom("show", address).stdout)
        self.assertEqual(self.blockloom("dmesg", dump["id"]).stdout, "panic: from the ring\n")
        self.wait_digest(dump)
        self.assertIn("good", self.blockloom("verify", dump["id"]).stdout)
        self.blockloom("get", dump["id"], "-o", self.path("copy"))
        self.assertEqual(self.read_file(self.path("copy")), image)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("copy")).st_mode), 0o600)
        self.blockloom("pin", dump["id"])
        self.assertEqual(self.blockloom("rm", dump["id"], check=False).returncode, 4)
        self.blockloom("pin", "--off", dump["id"])
        self.assertIn("vm_fault: # cpu #", self.blockloom("groups").stdout)
        self.blockloom("rm", dump["id"])
        self.assertEqual(self.dumps(address), [])
        self.assertFalse(os.path.exists(os.path.join(self.store, dump["id"])))
        self.assertEqual(self.blockloom("show", address, check=False).returncode, 3)
        self.assertIn("dumpon -s 192.0.2.1", self.blockloom("enable-help", "192.0.2.1").stdout)

    def test_verify_finds_a_changed_byte(self):
        self.start_dumps()
        with Client(self.port()) as client:
            client.dump(harness.pattern(50_000, 41))
        dump = self.one_dump()
        self.wait_digest(dump)
        path = os.path.join(self.store, dump["id"], dump["image"])
        with open(path, "r+b") as file:
            file.seek(1234)
            file.write(b"!")
        done = self.blockloom("verify", dump["id"], check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("BAD", done.stdout)

    def test_the_hook_is_told(self):
        log = self.path("hook.log")
        hook = self.write_text("hook", f'#!/bin/sh\necho "$@ $BLOCKLOOM_DUMP_STATE" >> {log}\n')
        os.chmod(hook, 0o755)
        self.start_dumps(more=f'hook = "{hook}"\n')
        with Client(self.port()) as client:
            client.dump(harness.pattern(50_000, 42), host=b"web1")
            address = client.address
        dump = self.one_dump()
        folder = os.path.join(self.store, dump["id"])
        harness.wait_until(lambda: os.path.exists(log) and
                           len(self.read_file(log).splitlines()) == 2, "the hook's two calls")
        start, end = self.read_file(log).decode().splitlines()
        self.assertEqual(start.split()[:2], ["start", address])
        self.assertEqual(end, f"success {address} web1 {folder}/record.json {folder}/vmcore complete")

    def test_retention_keeps_the_newest_complete_and_what_is_pinned(self):
        self.start_dumps(more='retain_count = 1\nhosts = {"127.1.1.1" = "web", "127.1.1.2" = "web", '
                              '"127.1.1.3" = "web"}\n')
        ids = []
        for last in (1, 2, 3):
            with Client(self.port(), address=f"127.1.1.{last}") as client:
                client.dump(harness.pattern(5_000, last))
            ids += [d["id"] for d in self.dumps("web") if d["address"] == f"127.1.1.{last}"]
            if last == 1:
                self.blockloom("pin", ids[0])
        harness.wait_until(lambda: len(self.dumps("web")) == 2, "retention")
        self.assertEqual({d["id"] for d in self.dumps("web")}, {ids[0], ids[2]})
