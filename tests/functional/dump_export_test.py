"""A finished dump is a read-only NBD export."""

import os

import nbd

import dump_support
import harness
from netdump import Client, kernel_dump_header


class Export(dump_support.Case):
    def dump(self, size, **header):
        image = harness.pattern(size, size)
        with Client(self.port()) as client:
            client.herald()
            client.send_image(image)
            client.finish(kernel_dump_header(size, **header))
            return self.one_dump(client.address), image

    def test_it_is_listed_read_and_not_written(self):
        self.start_dumps()
        for size in (1, 511, 512, 513, 300_000, 1_048_576):
            with self.subTest(size=size):
                dump, image = self.dump(size, panic=b"what a pity")
                client = self.connect(self.server, "dump/" + dump["id"])
                padded = image.ljust((size + 511) // 512 * 512, b"\0")
                self.assertEqual(client.get_size(), len(padded))
                self.assertTrue(client.is_read_only())
                self.assertEqual(client.pread(len(padded), 0), padded)
                self.assert_errno("EPERM", self.connect(
                    self.server, "dump/" + dump["id"], strict=False).pwrite, b"x" * 512, 0)
        listed = self.command("nbdinfo", "--list", self.server.uri()).stdout
        self.assertIn(f'export="dump/{dump["id"]}"', listed)
        self.assertIn("what a pity", listed)

    def test_it_can_be_copied_by_nbdcopy(self):
        self.start_dumps()
        dump, image = self.dump(2_000_000)
        self.command("nbdcopy", self.server.uri("dump/" + dump["id"]), self.path("copy"))
        self.assertEqual(self.read_file(self.path("copy"))[:len(image)], image)

    def test_one_that_is_open_stays(self):
        self.start_dumps()
        dump, image = self.dump(100_000)
        client = self.connect(self.server, "dump/" + dump["id"])
        with self.assertRaises(harness.RpcError) as refused:
            self.server.rpc("dump_remove", {"dump": dump["id"]})
        self.assertEqual(refused.exception.data["errc"], "busy")
        self.assertEqual(client.pread(512, 0), image[:512])
        client.shutdown()

        def removed():
            try:
                return self.server.rpc("dump_remove", {"dump": dump["id"]})
            except harness.RpcError:
                return None
        harness.wait_until(removed, "it can be removed once it is closed")
        self.assertFalse(os.path.exists(os.path.join(self.store, dump["id"])))

    def test_what_is_not_whole_or_not_there_is_refused(self):
        self.start_dumps()
        with Client(self.port()) as client:
            client.herald()
            client.send_image(b"x" * 5000)
            dump = self.one_dump(client.address)
            for name in (dump["id"], "nobody/20260102T030405Z", "", "../x"):
                with self.subTest(name):
                    with self.assertRaises(nbd.Error):
                        self.connect(self.server, "dump/" + name)
