"""FreeBSD netdump against the real server, by a client that shares no code with it."""

import os
import socket
import stat
import threading
import time

import dump_support
import harness
import netdump
from netdump import Client, kernel_dump_header


class Netdump(dump_support.Case):
    def client(self, **how):
        client = Client(self.port(), **how)
        self.addCleanup(client.socket.close)
        return client

    def test_a_dump_arrives_whole_with_its_panic(self):
        self.start_dumps()
        client = self.client()
        image = netdump.minidump(300_000, b"line one\npanic: in the ring\n")
        client.dump(image, panic=b"page fault")
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(dump["panic"], "page fault")
        self.assertEqual(dump["hostname"], "crashy")
        self.assertEqual(dump["kernel"], "FreeBSD 14.1-RELEASE")
        self.assertEqual((dump["bytes"], dump["length"]), (len(image), len(image)))
        self.assertEqual(self.image_of(dump), image)
        self.assertEqual(self.file_of(dump, "dmesg.txt"), b"line one\npanic: in the ring\n")
        self.assertIn(b"  Panic String: page fault\n", self.file_of(dump, "info.txt"))
        shown = self.wait_digest(dump)
        self.assertEqual(shown["sha256"], dump_support.digest(image))
        folder = os.path.join(self.store, dump["id"])
        for name in os.listdir(folder):
            mode = os.stat(os.path.join(folder, name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)
        self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), 0o700)
        self.assertEqual([e["kind"] for e in self.events()], ["dump_started", "dump_complete"])

    def test_packets_of_every_size_are_taken(self):
        self.start_dumps()
        for mtu in (1500, 9000, 65507 + 28):
            with self.subTest(mtu=mtu):
                client = self.client(mtu=mtu)
                image = harness.pattern(1_000_003, mtu)
                client.dump(image)
                dump = self.one_dump(client.address)
                self.assertEqual(dump["state"], "complete")
                self.assertEqual(self.image_of(dump), image)

    def test_all_64_packets_of_the_largest_window_are_acknowledged(self):
        self.start_dumps()
        client = self.client()
        client.herald()
        image = harness.pattern(64 * client.payload, 3)
        client.send(*client.pieces(image))
        client.finish(kernel_dump_header(len(image)))
        self.assertEqual(self.one_dump(client.address)["state"], "complete")

    def test_each_ack_that_is_lost_is_sent_again(self):
        self.start_dumps()
        client = self.client(wait=0.1)
        lost = set()

        class LosesEachAckOnce:
            def outbound(self, packet):
                return [packet]

            def loses_ack(self):
                return False
        client.chance = LosesEachAckOnce()
        take = client.take_acks

        def take_and_lose(until):
            before = set(client.acked)
            take(until)
            for seqno in client.acked - before:
                if seqno not in lost:
                    lost.add(seqno)
                    client.acked.discard(seqno)
        client.take_acks = take_and_lose
        image = harness.pattern(100_000, 4)
        client.dump(image)
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)
        self.assertGreater(len(lost), 70)

    def test_finished_is_acknowledged_again_after_the_dump_is_closed(self):
        self.start_dumps()
        client = self.client()
        client.dump(harness.pattern(10_000, 5))
        finished = netdump.message(netdump.FINISHED, client.seqno)
        header = netdump.message(netdump.KDH, client.seqno - 1, 0, kernel_dump_header(10_000))
        for packet, seqno in ((finished, client.seqno), (header, client.seqno - 1)):
            client.acked.clear()
            client.put(packet)
            client.take_acks({seqno})
            self.assertIn(seqno, client.acked)
        self.assertEqual(self.one_dump(client.address)["state"], "complete")

    def test_packets_in_any_order_make_the_same_image(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(60_000, 6)
        client.herald()
        client.send(*reversed(list(client.pieces(image))))
        client.finish(kernel_dump_header(len(image)))
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)

    def test_a_client_may_send_from_any_port(self):
        self.start_dumps()
        client = self.client()
        client.herald()
        image = harness.pattern(50_000, 7)
        client.send_image(image[:client.payload * 10])
        client.socket.close()
        client.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.socket.bind((client.address, 0))
        client.send_image(image[client.payload * 10:], client.payload * 10)
        client.finish(kernel_dump_header(len(image)))
        self.assertEqual(self.image_of(self.one_dump(client.address)), image)

    def test_acks_come_from_the_address_that_was_addressed(self):
        self.start_dumps(bind="0.0.0.0:0", more="insecure = true\n")
        client = self.client(server="127.9.8.7")
        client.dump(harness.pattern(5_000, 8))  # the client takes no other sender's acks
        self.assertEqual(self.one_dump(client.address)["state"], "complete")

    def test_what_the_clients_own_ack_defect_hides_is_a_hole(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(46 * 1448, 9)
        client.herald()
        pieces = list(client.pieces(image))
        lost = pieces.pop(33)
        client.send(*pieces[:33])
        client.seqno += 1  # sent, lost, and taken for acknowledged
        client.send(*pieces[33:])
        client.finish(kernel_dump_header(len(image)))
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "holes")
        self.assertEqual(dump["missing"], 1448)
        self.assertEqual(dump["holes"], [{"offset": lost[1], "length": 1448}])
        self.assertEqual(self.events()[-1]["kind"], "dump_holes")

    def test_a_pause_does_no_harm(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(40_000, 10)
        client.herald()
        client.send_image(image[:1448 * 10])
        time.sleep(4)
        client.send_image(image[1448 * 10:], 1448 * 10)
        client.finish(kernel_dump_header(len(image)))
        self.assertEqual(self.one_dump(client.address)["state"], "complete")

    def test_a_silent_client_times_out_and_what_came_stays(self):
        self.start_dumps(more='timeout = "1s"\n')
        client = self.client()
        client.herald()
        image = harness.pattern(30_000, 11)
        client.send_image(image)
        dump = self.wait_over(client.address)
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "timeout"))
        self.assertEqual(self.image_of(dump), image)
        with self.assertRaises(netdump.GaveUp):
            client.resends = 2
            client.send_image(image, len(image))

    def test_a_new_herald_in_the_middle_ends_the_dump_before(self):
        self.start_dumps()
        address = netdump.new_address()
        first, second = self.client(address=address), self.client(address=address)
        first.herald()
        first.send_image(harness.pattern(20_000, 12))
        time.sleep(3.2)  # no machine crashes, restarts and crashes again sooner
        image = harness.pattern(25_000, 13)
        second.dump(image)
        by_state = {d["state"]: d for d in self.dumps(address)}
        self.assertEqual(set(by_state), {"incomplete", "complete"})
        self.assertEqual(by_state["incomplete"]["reason"], "new_herald")
        self.assertEqual(self.image_of(by_state["complete"]), image)

    def test_a_late_copy_of_the_herald_changes_nothing(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(200_000, 14)
        client.herald()
        client.send_image(image[:144800])
        client.put(netdump.message(netdump.HERALD, 1))
        client.send_image(image[144800:], 144800)
        client.put(netdump.message(netdump.HERALD, 1))
        client.finish(kernel_dump_header(len(image)))
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)

    def test_two_clients_at_once(self):
        self.start_dumps()
        clients = [self.client() for _ in range(4)]
        images = [harness.pattern(500_000 + i, i) for i in range(4)]
        threads = [threading.Thread(target=c.dump, args=(i,)) for c, i in zip(clients, images)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client, image in zip(clients, images):
            dump = self.one_dump(client.address)
            self.assertEqual(dump["state"], "complete")
            self.assertEqual(self.image_of(dump), image)

    def test_compressed_dumps_are_trimmed_and_named(self):
        self.start_dumps()
        for compression, name in ((1, "vmcore.gz"), (2, "vmcore.zst")):
            with self.subTest(name):
                client = self.client()
                data = harness.pattern(10_001, compression)
                client.herald()
                client.send_image(data.ljust(12288, b"\0"))
                client.finish(kernel_dump_header(len(data), compression=compression))
                dump = self.one_dump(client.address)
                self.assertEqual((dump["state"], dump["image"]), ("complete", name))
                self.assertEqual(self.image_of(dump), data)

    def test_encrypted_dumps_keep_their_key_whenever_it_comes(self):
        self.start_dumps()
        blob = netdump.kernel_dump_key()
        for first in (True, False):
            with self.subTest(first=first):
                client = self.client()
                image = harness.pattern(8192, 15)
                client.herald()
                if first:
                    client.key(blob)
                client.send_image(image)
                client.header(kernel_dump_header(len(image), key_size=len(blob)))
                if not first:
                    client.key(blob)
                client.finish()
                dump = self.one_dump(client.address)
                self.assertEqual(dump["image"], "vmcore_encrypted")
                self.assertTrue(dump["encrypted"])
                self.assertEqual(self.file_of(dump, "key"), blob)

    def test_a_header_of_version_1(self):
        self.start_dumps()
        client = self.client()
        client.dump(harness.pattern(4096, 16), version=1, panic=b"old", host=b"eleven")
        dump = self.one_dump(client.address)
        self.assertEqual((dump["state"], dump["panic"], dump["hostname"]),
                         ("complete", "old", "eleven"))

    def test_bad_headers_are_never_called_complete(self):
        self.start_dumps()
        image = harness.pattern(20_000, 17)
        cases = {
            "no header": (None, "no_header"),
            "parity": (kernel_dump_header(len(image), parity=False), "bad_header"),
            "too short": (kernel_dump_header(len(image) - 8192), "bad_header"),
        }
        for name, (header, reason) in cases.items():
            with self.subTest(name):
                client = self.client()
                client.herald()
                client.send_image(image)
                client.finish(header)
                dump = self.one_dump(client.address)
                self.assertEqual((dump["state"], dump["reason"]), ("incomplete", reason))
                self.assertEqual(self.image_of(dump), image)

    def test_a_header_that_names_more_than_came_leaves_a_hole(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(20_000, 18)
        client.herald()
        client.send_image(image)
        client.finish(kernel_dump_header(30_000))
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "holes")
        self.assertEqual(dump["holes"], [{"offset": 20_000, "length": 10_000}])

    def test_a_dump_of_no_bytes(self):
        self.start_dumps()
        client = self.client()
        client.herald()
        client.finish(kernel_dump_header(0))
        dump = self.one_dump(client.address)
        self.assertEqual((dump["state"], dump["bytes"]), ("complete", 0))

    def test_lies_get_no_ack_and_do_no_harm(self):
        self.start_dumps()
        client = self.client()
        image = harness.pattern(30_000, 19)
        client.herald()
        client.send_image(image[:14480])
        lies = [
            b"", b"\0" * 23, netdump.message(9, 50), netdump.message(0, 50),
            netdump.message(netdump.VMCORE, 50, 0, b"x" * 100, length=99),
            netdump.message(netdump.VMCORE, 50, 0, b"x" * 100, length=1 << 31),
            netdump.message(netdump.VMCORE, 50, 1 << 63, b"x"),
            netdump.message(netdump.VMCORE, 50, (1 << 63) - 1, b"xx"),
            netdump.message(netdump.VMCORE, 50, 1 << 62, b"a sparse bomb"),
            netdump.message(netdump.VMCORE, 50, 1 << 40, b"a sparse bomb"),
            netdump.message(netdump.VMCORE, 50),
            netdump.message(netdump.KDH, 50, 0, b"k" * 511),
            netdump.message(netdump.KDH, 50, 0, b"k" * 512),
            netdump.message(netdump.KEY, 50, 1 << 20, b"k"),
            netdump.message(netdump.FINISHED, 50, 0, b"x"),
            netdump.message(netdump.HERALD, 50, 0, b"", aux2=1),
        ]
        for lie in lies:
            client.put(lie)
        client.take_acks({50})
        self.assertNotIn(50, client.acked)
        client.send_image(image[14480:], 14480)
        client.finish(kernel_dump_header(len(image)))
        dump = self.one_dump(client.address)
        self.assertEqual(dump["state"], "complete")
        self.assertEqual(self.image_of(dump), image)

    def test_a_path_never_leaves_the_store(self):
        self.start_dumps()
        for path in ("../x", "/etc", "a/../../b", "a//b", "..", "a\nb"):
            with self.subTest(path):
                client = self.client(wait=0.1, resends=2)
                with self.assertRaises(netdump.GaveUp):
                    client.herald(path)
        client = self.client(wait=0.1, resends=2)
        with self.assertRaises(netdump.GaveUp):  # no NUL at its end
            client.send((netdump.HERALD, 0, b"abc"))
        client = self.client()
        client.herald("rack7/blue")
        client.send_image(b"x" * 4096)
        client.finish(kernel_dump_header(4096))
        self.assertEqual(self.one_dump()["label"], "rack7/blue")
        self.assertEqual(sorted(os.listdir(self.store)),
                         [".blockloom-lock", ".blockloom-reserve", client.address])
        self.assertFalse(os.path.exists(self.path("x")))

    def test_strangers_are_not_heard(self):
        self.start_dumps(more='allow = ["10.0.0.0/8"]\n')
        client = self.client()
        client.dump(b"x" * 100)  # loopback is always allowed
        other = self.client(wait=0.1, resends=2)
        with self.assertRaises(netdump.GaveUp):
            other.send_image(b"no herald before")
        self.assertEqual(len(self.dumps()), 1)
        harness.wait_until(lambda: self.server.rpc("dump_info")["netdump"]["strangers"] > 0,
                           "strangers are counted")

    def test_one_address_begins_only_so_often(self):
        self.start_dumps(more="begins_per_minute = 2\n")
        address = netdump.new_address()
        for _ in range(2):
            self.client(address=address).dump(b"x" * 100)
            time.sleep(3.2)
        third = self.client(address=address, wait=0.1, resends=2)
        with self.assertRaises(netdump.GaveUp):
            third.herald()
            third.send_image(b"y" * 100)
        self.assertEqual(len(self.dumps(address)), 2)

    def test_too_many_sessions_are_refused(self):
        self.start_dumps(more="sessions = 2\n")
        for _ in range(2):
            self.client().herald()
        with self.assertRaises(netdump.GaveUp):
            self.client(wait=0.1, resends=2).herald()


class Chance(dump_support.Case):
    """Whatever the network does: complete means equal, and what is not whole is not called so."""

    def test_random_loss_duplication_and_reordering(self):
        self.start_dumps(more="begins_per_minute = 0\n")
        rounds = int(os.environ.get("BLOCKLOOM_CHANCE_ROUNDS", "12"))
        seed = int(os.environ.get("BLOCKLOOM_SEED", str(time.time_ns() % (1 << 32))))
        whole = 0
        for number in range(rounds):
            network = netdump.Network(seed + number)
            network.loss, network.double, network.reorder = (
                network.random.uniform(0, 0.3) for _ in range(3))
            with self.subTest(seed=seed + number):
                with Client(self.port(), wait=0.05, resends=60) as client:
                    client.chance = network
                    image = harness.pattern(network.random.randrange(1, 400_000), seed + number)
                    defect = network.random.random() < 0.3
                    self.run_one(client, image, defect)
                    dump = self.one_dump(client.address)
                    stored = self.image_of(dump)
                    if dump["state"] == "complete":
                        whole += 1
                        self.assertEqual(stored, image)
                    else:
                        self.assertEqual(dump["state"], "holes")
                        self.assertNotEqual(dump["missing"], 0)
                        for hole in dump["holes"]:
                            end = hole["offset"] + hole["length"]
                            self.assertLessEqual(end, len(image))
        self.assertGreater(whole, 0, f"seed {seed}")

    @staticmethod
    def run_one(client, image, defect):
        client.herald()
        pieces = list(client.pieces(image))
        for at in range(0, len(pieces), netdump.WINDOW):
            batch = pieces[at:at + netdump.WINDOW]
            if defect and len(batch) > 40:
                # The kernel takes one for acknowledged that never arrived.
                batch.pop(client.chance.random.randrange(14))
            client.send(*batch)
        client.finish(kernel_dump_header(len(image)))
