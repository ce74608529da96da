"""`blockloom dump import`: what a kdump client wrote to a volume of ours as to a disk."""

import struct

import daemon
import dump_support
import dumpstream
import harness

MIB = 1 << 20
BLOCK = 4096


def kdump(pages, node=b"web7", version=6, split=0, status=0, big=False):
    """A kdump-compressed file (makedumpfile's diskdump_mod.h), as far as its lengths go."""
    order = ">" if big else "<"
    info = b"OSRELEASE=6.1.0-test\nCRASHTIME=1767225601\n"
    header = bytearray(BLOCK)
    struct.pack_into(f"{order}8si", header, 0, b"KDUMP   ", version)
    for at, text in ((12, b"Linux"), (77, node), (142, b"6.1.0-test"), (272, b"x86_64")):
        header[at:at + len(text)] = text
    struct.pack_into(f"{order}q", header, 408, 1767225600)
    struct.pack_into(f"{order}IiiII", header, 424, status, BLOCK, 1, 2, 1000)
    bits = bytes(200) + b"\xff" * (len(pages) // 8) + bytes([(1 << len(pages) % 8) - 1])
    table_at = 4 * BLOCK
    data_at = table_at + 24 * len(pages)
    sub = bytearray(BLOCK)
    struct.pack_into(f"{order}Qii", sub, 0, 0, 31, split)
    struct.pack_into(f"{order}QQ", sub, 32, data_at, len(info))
    table, data = b"", info
    for page in pages:
        table += struct.pack(f"{order}QIIQ", data_at + len(data), len(page), 0, 0)
        data += page
    return bytes(header) + bytes(sub) + bytes(BLOCK) + bits.ljust(BLOCK, b"\0") + table + data


def pages(count, seed=1):
    data = harness.pattern(count * 700, seed)
    return [data[i * 700:i * 700 + 100 + i % 600] for i in range(count)]


def elf(segments):
    """An ELF core with these segments and a note with the kernel's name."""
    text = b"OSRELEASE=6.1.0-elf\nCRASHTIME=1767225602\n"
    note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text.ljust(
        (len(text) + 3) // 4 * 4, b"\0")
    count = 1 + len(segments)
    at = 64 + 56 * count
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, 64, 0, 0, 64, 56,
                       count, 0, 0, 0)
    table, data = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(note), len(note), 0), note
    for segment in segments:
        table += struct.pack("<IIQQQQQQ", 1, 7, at + len(data), 0, 0, len(segment), len(segment), 0)
        data += segment
    return head + table + data


class Import(dump_support.Case):
    size = 32 * MIB

    def start(self, more=""):
        self.disk = self.make_file("disk", self.size, seed=99)  # an old disk, not a clean one
        self.start_dumps(more=more + daemon.device("vol", f"0 {self.size // 512} linear {self.disk} 0"))

    def write(self, stream):
        """As the capture kernel's dd does, through NBD."""
        client = self.connect(self.server, "vol")
        stream += b"\0" * (-len(stream) % 512)
        for at in range(0, len(stream), MIB):
            client.pwrite(stream[at:at + MIB], at)
        client.flush()
        client.shutdown()

    def take(self, **params):
        return self.server.rpc("dump_import", {"device": "vol", **params})

    def refused(self, errc, message):
        before = len(self.dumps())
        with self.assertRaises(harness.RpcError) as refused:
            self.take()
        self.assertEqual(refused.exception.data["errc"], errc)
        self.assertIn(message, str(refused.exception))
        self.assertEqual(len(self.dumps()), before)

    def flattened(self, image, end=True):
        """In pieces out of order; the header comes first, and once more, as makedumpfile's does."""
        records = [(0, image[:BLOCK])]
        records += [(at, image[at:at + 300_000]) for at in range(BLOCK, len(image), 300_000)][::-1]
        return dumpstream.flattened([*records, (0, image[:BLOCK])], end=end)

    def test_a_flattened_dump_is_found_rearranged_and_kept(self):
        self.start()
        image = kdump(pages(5000))
        self.write(self.flattened(image))
        dump = self.take()
        self.assertEqual((dump["state"], dump["protocol"], dump["address"]),
                         ("complete", "import", "dev:vol"))
        self.assertEqual((dump["host"], dump["kernel"], dump["kind"], dump["crash_time"]),
                         ("web7", "6.1.0-test", "kdump", 1767225601))
        self.assertEqual(dump["length"], len(image))
        self.assertEqual(self.image_of(dump), image)
        shown = self.wait_digest(dump)
        self.assertEqual(shown["sha256"], dump_support.digest(image))
        self.assertEqual([e["kind"] for e in self.events()], ["dump_started", "dump_complete"])
        self.refused("exists", dump["id"])

    def test_a_kdump_file_and_an_elf_core_end_where_they_say(self):
        self.start()
        cases = (("kdump", kdump(pages(3000, 2)), "web7"), ("kdump", kdump(pages(9, 3), big=True), "web7"),
                 ("elf", elf([harness.pattern(3 * MIB, 4), bytes(5 * MIB), b"end"]), "vol"))
        for kind, image, host in cases:
            with self.subTest(kind=kind, length=len(image)):
                self.write(image)
                dump = self.take()
                self.assertEqual((dump["state"], dump["kind"], dump["host"]),
                                 ("complete", kind, host), dump)
                self.assertEqual(self.image_of(dump), image)

    def test_by_the_command_line_and_under_another_name(self):
        self.start()
        self.write(kdump(pages(10)))
        out = self.command(harness.BLOCKLOOM, "--socket", self.server.control, "dump", "import", "vol",
                           "--host", "rack9").stdout
        self.assertIn("rack9/", out)
        self.assertEqual(self.one_dump("rack9")["hostname"], "rack9")

    def test_a_stream_that_breaks_off_is_kept_and_not_called_whole(self):
        self.start()
        image = kdump(pages(4000))
        stream = self.flattened(image)
        self.write(bytes(self.size))
        self.write(stream[:len(stream) // 2])
        dump = self.take()
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "malformed"))
        self.assertIn("breaks off", dump["detail"])
        self.assertGreater(dump["bytes"], 300_000)

    def test_makedumpfiles_own_mark_counts(self):
        self.start()
        self.write(self.flattened(kdump(pages(100), status=8)))
        dump = self.take()
        self.assertEqual((dump["state"], dump["reason"]), ("incomplete", "sender"))

    def test_what_is_no_dump_is_refused_and_says_why(self):
        self.start()
        self.refused("invalid", "no dump is there: expected makedumpfile's flattened stream")
        cases = ((bytes(MIB), "invalid", "begins with zeros"),
                 (b"\x1f\x8b\x08" + bytes(600), "not_supported", "gzip data, whose end"),
                 (kdump(pages(9), split=1), "not_supported", "part of a split dump"),
                 (kdump(pages(9), version=5), "not_supported", "version 5"),
                 (elf([b"x" * 100])[:64 + 56 + 32] + struct.pack("<Q", 1 << 40) + bytes(600),
                  "corrupt", "on a device of"))
        for content, errc, message in cases:
            with self.subTest(message):
                self.write(content)
                self.refused(errc, message)
        lie = bytearray(kdump(pages(9)))
        struct.pack_into("<Q", lie, 4 * BLOCK, 1 << 62)  # a page far behind the device
        self.write(bytes(lie))
        self.refused("corrupt", "behind the end of the device")

    def test_a_quota_holds_for_it(self):
        self.start(more='quota_dump = "1MiB"\n')
        self.write(self.flattened(kdump(pages(5000))))
        dump = self.take()
        self.assertEqual(dump["state"], "incomplete")
