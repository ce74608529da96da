"""netconsole: the last words of a machine, in its log and beside the dump that follows."""

import os
import socket

import dump_support
import harness
import netdump
from netdump import Client


class Netconsole(dump_support.Case):
    def start(self, more=""):
        return self.start_dumps(listen=["netdump", "netconsole"], more=more)

    def send(self, address, *datagrams):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((address, 0))
            for datagram in datagrams:
                sender.sendto(datagram, ("127.0.0.1", self.port("netconsole")))

    def log_of(self, address, wanted):
        path = os.path.join(self.store, address, ".netconsole.log")

        def text():
            found = self.read_file(path).decode(errors="replace") if os.path.exists(path) else ""
            return found if wanted in found else None
        return harness.wait_until(text, f"{wanted!r} in the log of {address}")

    def test_a_log_per_host_with_gaps_and_reboots(self):
        self.start()
        address = netdump.new_address()
        self.send(address, b"6,100,5000000,-;first\n", b"6,101,5000001,-;second\n SUBSYSTEM=x\n",
                  b"6,104,90000002,-;after the gap\n", b"5,0,0,-;Linux version 6.1\n")
        log = self.log_of(address, "Linux version")
        for line in ("[    5.000000] first", "[    5.000001] second", "--- 2 messages lost ---",
                     "[   90.000002] after the gap", "--- the sender has started again ---"):
            self.assertIn(line, log)
        self.assertNotIn("SUBSYSTEM", log)

    def test_fragments_and_basic_text(self):
        self.start()
        one, two = netdump.new_address(), netdump.new_address()
        self.send(one, b"6,1,10,-,ncfrag=5/10;world", b"6,1,10,-,ncfrag=0/10;hello")
        self.send(two, b"plain li", b"ne\nand an", b"other\n", b"without its end")
        self.assertIn("helloworld", self.log_of(one, "hello"))
        log = self.log_of(two, "without its end")
        self.assertIn("plain line\n", log)
        self.assertIn("another\n", log)

    def test_the_dump_that_follows_has_it_beside_it(self):
        self.start()
        with Client(self.port()) as client:
            self.send(client.address, b"4,7,99000000,-;Kernel panic - not syncing: on the console\n")
            self.log_of(client.address, "on the console")
            client.herald()
            client.send_image(harness.pattern(5000, 1))
            dump = self.one_dump(client.address)
            self.assertTrue(dump["netconsole"])
            self.assertEqual(dump["panic"], "Kernel panic - not syncing: on the console")
            self.assertIn(b"on the console", self.file_of(dump, "netconsole.log"))
            text = self.command(harness.BLOCKLOOM, "--socket", self.server.control, "dump", "dmesg",
                                "--netconsole", client.address).stdout
            self.assertIn("on the console", text)

    def test_anything_at_all_does_no_harm(self):
        self.start()
        address = netdump.new_address()
        self.send(address, b"", b"\0" * 2000, b";", b"," * 500, b"6,1,1,-,ncfrag=0/999999999;x",
                  os.urandom(1400), b"../../etc/passwd\n", b"still here\n")
        self.assertIn("still here", self.log_of(address, "still here"))
        self.assertEqual(self.dumps(), [])
