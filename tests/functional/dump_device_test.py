"""Dumps kept on a device of ours: the same behaviour as in a folder, restarts, a mirror that loses a
leg, a device that is full, in use, or holds something else."""

import base64
import os
import threading

import nbd

import daemon
import dump_export_test
import dump_store_test
import dump_stream_test
import dump_support
import harness
import legs
import netdump
from netdump import Client, kernel_dump_header

MIB = 1 << 20


class Case(dump_support.Case):
    """The store is the device "crash", linear over `self.disk` unless a table is given."""

    size = 64 * MIB
    disk = table = devices = None

    def start_dumps(self, folder=None, store=None, more="", wrapper=(), ready=True, table=None,
                    devices="", **listeners):
        folder = folder or self.new_folder()
        self.disk = store or os.path.join(folder, "disk")
        if not os.path.exists(self.disk):
            with open(self.disk, "wb") as file:
                file.truncate(self.size)
        self.table = table or f"0 {self.size // 512} linear {self.disk} 0"
        self.devices = devices
        listen = listeners.pop("listen", ["netdump"])
        bind = listeners.pop("bind", "127.0.0.1:0")
        self.write_config(folder, {name: bind for name in listen}, more)
        self.server = self.run_daemon(folder, ready=ready, wrapper=wrapper)
        if ready:
            self.info = self.server.rpc("dump_info")
        return self.server

    def write_config(self, folder, where, more=""):
        lines = ["[dump]", 'device = "crash"']
        lines += [f'{name} = ["{self.listeners[name]}:{at}"]' for name, at in where.items()]
        self.configure(folder, "\n".join(lines) + "\n" + more + daemon.device("crash", self.table)
                       + self.devices)

    def restart_dumps(self, more="", listen=("netdump",)):
        self.write_config(self.server.folder,
                          {name: self.info[f"{name}_listeners"][0] for name in listen}, more)
        self.server = self.run_daemon(self.server.folder)
        self.info = self.server.rpc("dump_info")
        return self.server

    def image_of(self, dump):
        image, at = b"", 0
        while True:
            piece = self.server.rpc("dump_read", {"dump": dump["id"], "offset": at})
            image += base64.b64decode(piece["base64"])
            at += piece["length"]
            if piece["length"] == 0:
                return image

    def send(self, size, seed=1, **how):
        image = harness.pattern(size, seed)
        with Client(self.port(), **{"resends": 40, **how}) as client:
            client.herald()
            client.send_image(image)
            client.finish(kernel_dump_header(size))
            return self.one_dump(client.address), image

    def remove(self, dump):
        """Once nobody looks at it any more: its digest is made after its end."""
        def removed():
            try:
                return self.server.rpc("dump_remove", {"dump": dump["id"]})
            except harness.RpcError as error:
                self.assertEqual(error.data["errc"], "busy")
                return None
        harness.wait_until(removed, "the dump can be removed")

    def use_device(self, message):
        with self.assertRaises(harness.RpcError) as refused:
            self.server.rpc("dump_list")
        self.assertEqual(refused.exception.data["errc"], "busy")
        self.assertIn(message, str(refused.exception))


# What a folder does, a device does.

class DeviceExport(Case, dump_export_test.Export):
    test_one_that_is_open_stays = None  # looks into the folder; below


class DeviceRestart(Case, dump_store_test.Restart):
    test_an_orderly_end_says_so_and_the_dump_can_still_go_on = None  # reads the folder; below


class Device(Case):
    def test_a_dump_is_kept_listed_verified_pinned_and_removed(self):
        self.start_dumps()
        self.assertEqual((self.info["store"], self.info["trouble"]), ("dev:crash", ""))
        before = self.info["free_bytes"]
        dump, image = self.send(3_000_001)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)
        shown = self.wait_digest(dump)
        self.assertEqual(shown["sha256"], dump_support.digest(image))
        self.assertEqual(sum(run["length"] for run in shown["runs"]), len(image))
        with open(self.disk, "rb") as disk:
            found = b""
            for run in shown["runs"]:
                self.assertEqual(run["leg"], "dev:crash")
                disk.seek(run["offset"])
                found += disk.read(run["length"])
        self.assertEqual(found, image)
        self.assertTrue(self.server.rpc("dump_verify", {"dump": dump["id"]})["good"])
        self.server.rpc("dump_pin", {"dump": dump["id"]})
        with self.assertRaises(harness.RpcError):
            self.server.rpc("dump_remove", {"dump": dump["id"]})
        self.server.rpc("dump_pin", {"dump": dump["id"], "pinned": False})
        client = self.connect(self.server, "dump/" + dump["id"])
        with self.assertRaises(harness.RpcError):
            self.server.rpc("dump_remove", {"dump": dump["id"]})
        self.assertEqual(client.pread(512, 0), image[:512])
        client.shutdown()
        self.remove(dump)
        self.assertEqual(self.dumps(), [])
        self.assertEqual(self.server.rpc("dump_info")["free_bytes"], before)

    def test_a_damaged_image_does_not_verify(self):
        self.start_dumps()
        dump, _ = self.send(500_000)
        run = self.wait_digest(dump)["runs"][0]
        with open(self.disk, "r+b") as disk:
            disk.seek(run["offset"] + 123_456)
            disk.write(b"oops")
        self.assertFalse(self.server.rpc("dump_verify", {"dump": dump["id"]})["good"])

    def test_everything_is_there_after_a_restart_in_good_order_and_after_a_kill(self):
        self.start_dumps()
        dump, image = self.send(700_000)
        sums = self.wait_digest(dump)["sha256"]
        self.assertEqual(self.server.terminate(), 0)
        for end in (self.server.terminate, self.server.kill):
            with self.subTest(end.__name__):
                self.restart_dumps()
                (found,) = self.dumps()
                self.assertEqual((found["id"], found["state"], found["sha256"]),
                                 (dump["id"], "complete", sums))
                self.assertEqual(self.image_of(found), image)
                getattr(self.server, end.__name__)()

    def test_a_dump_goes_on_after_an_orderly_end(self):
        self.start_dumps()
        with Client(self.port(), resends=40) as client:
            image = harness.pattern(200_000, 23)
            client.herald()
            client.send_image(image[:144800])
            self.assertEqual(self.server.terminate(), 0)
            self.restart_dumps()
            client.send_image(image[144800:], 144800)
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)

    @dump_stream_test.WITH_SENDER
    def test_a_stream_goes_on_after_a_kill_and_brings_its_texts(self):
        self.start_dumps(listen=["netdump", "stream"])
        image = harness.pattern(9_000_000, 5)
        sender = threading.Thread(target=self.blockloom_dump, args=(image,))
        sender.start()
        harness.wait_until(lambda: self.dumps() and self.dumps()[0]["bytes"] > 0, "a stream")
        self.server.kill()
        self.restart_dumps(listen=("netdump", "stream"))
        sender.join()
        (dump,) = self.dumps()
        self.assertEqual(dump["state"], "complete", dump)
        self.assertEqual(self.image_of(dump), image)
        self.assertIn("Kernel panic", dump["panic"])
        text = self.server.rpc("dump_text", {"dump": dump["id"]})["text"]
        self.assertIn("Kernel panic", text)

    def blockloom_dump(self, image):
        with open(self.path("image"), "wb") as file:
            file.write(image)
        with open(self.path("dmesg"), "wb") as file:
            file.write(b"[    1.0] Kernel panic - not syncing: sysrq triggered crash\n")
        self.command(dump_stream_test.BLOCKLOOM_DUMP, "send", "--to",
                     f"127.0.0.1:{self.port('stream')}", "--dmesg", self.path("dmesg"),
                     "--deadline", "60", self.path("image"), check=False)

    def test_holes_are_zeros_and_not_an_older_dump(self):
        self.start_dumps()
        old, _ = self.send(6_000_000, 1)
        self.remove(old)
        image = harness.pattern(6_000_000, 2)
        with Client(self.port()) as client:
            client.herald()
            client.send_image(image[:1_448_000])
            client.send_image(image[2_896_000:], 2_896_000)
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "holes")
        self.assertEqual(dump["missing"], 1_448_000)
        self.assertEqual(self.image_of(dump),
                         image[:1_448_000] + bytes(1_448_000) + image[2_896_000:])

    def test_a_full_device_ends_a_dump_and_keeps_what_came(self):
        self.size = 16 * MIB
        self.start_dumps(more='timeout = "3s"\n')
        image = harness.pattern(20 * MIB, 7)
        with Client(self.port(), resends=4) as client:
            client.herald()
            with self.assertRaises(netdump.GaveUp):
                client.send_image(image)
            dump = self.wait_over(client.address)
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "no_space"))
        found = self.image_of(dump)
        self.assertGreater(dump["bytes"], 8 * MIB)
        self.assertEqual(found[:dump["bytes"]], image[:dump["bytes"]])
        self.assertIn("dump_no_space", [e["kind"] for e in self.events()])
        self.remove(dump)
        again, image = self.send(10 * MIB, 8)
        self.assertEqual(again["state"], "complete")
        self.assertEqual(self.image_of(again), image)

    def test_many_dumps_at_once_do_not_mix(self):
        self.start_dumps(listen=["netdump"], more="begins_per_minute = 0\n")
        results = {}

        def one(seed):
            results[seed] = self.send(1_500_000 + seed, seed, resends=40)
        senders = [threading.Thread(target=one, args=(seed,)) for seed in range(8)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        self.assertEqual(len(results), 8)
        for dump, image in results.values():
            self.assertEqual(dump["state"], "complete")
            self.assertEqual(self.image_of(dump), image)

    def test_retention_removes_the_oldest(self):
        self.start_dumps(more="retain_count = 2\n")
        address = netdump.new_address()
        ids = []
        for n in range(4):
            with Client(self.port(), address=address, resends=40) as client:
                client.herald()
                client.send_image(harness.pattern(50_000, n))
                client.finish(kernel_dump_header(50_000))
                ids.append(max(self.dumps(), key=lambda d: d["started"])["id"])
        harness.wait_until(lambda: len(self.dumps()) == 2, "retention")
        self.assertEqual([d["id"] for d in self.dumps()], ids[2:])


class Trouble(Case):
    def test_nobody_else_opens_the_device(self):
        self.start_dumps(devices=daemon.device("other", "0 2048 zero"))
        with self.assertRaises(nbd.Error):
            self.connect(self.server, "crash")
        self.assertIn("it holds crash dumps", self.server.log())
        for method, params in (("create", {"name": "top", "table": "0 2048 linear dev:crash 0"}),
                               ("remove", {"device": "crash"}),
                               ("dump_import", {"device": "crash"})):
            with self.subTest(method):
                with self.assertRaises(harness.RpcError) as refused:
                    self.server.rpc(method, params)
                self.assertEqual(refused.exception.data["errc"], "busy")
        self.connect(self.server, "other")

    def test_dumps_do_not_wait_for_a_suspended_device(self):
        self.start_dumps()
        self.server.rpc("suspend", {"device": "crash"})
        dump, image = self.send(2_000_000)
        self.assertEqual(dump["state"], "complete")
        self.server.rpc("resume", {"device": "crash"})
        self.assertEqual(self.image_of(dump), image)

    def test_a_device_that_holds_something_else_is_left_alone_until_it_is_formatted(self):
        folder = self.new_folder()
        disk = os.path.join(folder, "disk")
        content = harness.pattern(16 * MIB, 3)
        with open(disk, "wb") as file:
            file.write(content)
        self.size = 16 * MIB
        self.start_dumps(folder)
        self.assertIn("holds something else", self.info["trouble"])
        self.use_device("holds something else")
        self.assertEqual(self.read_file(disk), content)
        with self.assertRaises(harness.RpcError):
            self.server.rpc("dump_format", {"device": "other"})
        self.server.rpc("dump_format", {"device": "crash"})
        harness.wait_until(lambda: not self.server.rpc("dump_info")["trouble"], "the store opens")
        dump, image = self.send(100_000)
        self.assertEqual(self.image_of(dump), image)
        with self.assertRaises(harness.RpcError) as refused:
            self.server.rpc("dump_format", {"device": "crash"})
        self.assertEqual(refused.exception.data["errc"], "busy")

    def test_a_second_server_on_the_store_refuses_and_takes_it_when_the_first_is_gone(self):
        self.start_dumps()
        dump, image = self.send(100_000)
        first, disk = self.server, self.disk
        self.start_dumps(store=disk)
        self.use_device("in use by another server")
        first.kill()
        harness.wait_until(lambda: not self.server.rpc("dump_info")["trouble"], "it takes over")
        self.assertEqual(self.image_of(dump), image)

    def test_a_device_that_is_not_there_or_serves_a_lun_is_an_error(self):
        folder = self.new_folder()
        self.configure(folder, '[dump]\ndevice = "crash"\nnetdump = ["udp:127.0.0.1:0"]\n')
        server = self.run_daemon(folder, ready=False)
        self.assertNotEqual(server.process.wait(timeout=harness.PATIENCE), 0)
        self.assertIn("there is no device", server.log())


class Mirror(Case):
    """The store is mirrored over a local file and an NBD server that is stopped."""

    def start_mirrored(self):
        folder = self.new_folder()
        for name, size in (("disk", self.size), ("remote", self.size), ("log", MIB)):
            with open(os.path.join(folder, name), "wb") as file:
                file.truncate(size)
        self.remote = os.path.join(folder, "remote")
        self.leg = legs.nbdkit(self, "file", self.remote)
        self.start_dumps(folder, table=f"0 {self.size // 512} mirror disk 3 {folder}/log 1024 nosync "
                         f"2 {folder}/disk 0 nbd+unix:///?socket={self.leg.path} 0 2 timeout_ms 1000")
        harness.wait_until(lambda: not self.server.rpc("dump_info")["trouble"], "the store opens")

    def test_a_leg_that_is_stopped_while_a_dump_comes_in_does_not_stop_it(self):
        self.start_mirrored()
        image = harness.pattern(20_000_000, 9)
        with Client(self.port(), mtu=9000, resends=40) as client:
            client.herald()
            client.send_image(image[:8_000_000])
            self.leg.stop()
            client.send_image(image[8_000_000:], 8_000_000)
            client.finish(kernel_dump_header(len(image)))
            dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)

