"""Clients over vsock, by the loopback of Debian's kernel, of an installed server under systemd."""

import daemon
import system_case

PORT = 10809
MIB = 4
LOCAL = f"nbd+vsock://1:{PORT}"  # VMADDR_CID_LOCAL


class Vsock(system_case.SystemCase):
    NAME = "vsock"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.guest.run("modprobe vsock_loopback")

    def serve(self, listener: str) -> None:
        self.make_leg("/srv/a.img", MIB)
        self.configure(daemon.device("a", f"0 {MIB * 2048} linear /srv/a.img 0")
                       + daemon.device("b", "0 4096 zero"), listen=listener)
        self.systemctl("start", system_case.SERVICE)

    def test_bytes_go_both_ways(self):
        self.serve(f'{{address = "vsock:{PORT}", insecure = true}}')
        self.assertEqual(self.run_in(f"nbdinfo --size {LOCAL}/a"), f"{MIB << 20}\n")
        listed = self.run_in(f"nbdinfo --list {LOCAL}/")
        self.assertIn('export="a"', listed)
        self.assertIn('export="b"', listed)
        self.run_in(f"""
            seeded_io generate 1 {MIB << 20} >/run/test/sent
            nbdcopy --connections=4 /run/test/sent {LOCAL}/a
            cmp /run/test/sent /srv/a.img
            nbdcopy --connections=4 {LOCAL}/a /run/test/received
            cmp /run/test/sent /run/test/received""")

    def test_the_address_that_the_server_names_is_one(self):
        self.serve(f'{{address = "vsock:local:{PORT}"}}')
        self.assertNotIn("is public", self.said())
        self.assertIn(f"{LOCAL}/a", self.run_in("blockloom attach-help a"))
        self.assertEqual(self.run_in(f"nbdinfo --size {LOCAL}/b"), "2097152\n")

    def test_tcp_and_vsock_show_the_same_bytes_at_once(self):
        self.serve(f'"tcp:127.0.0.1:{PORT}", {{address = "vsock:{PORT}", insecure = true}}')
        self.run_in(f"""
            seeded_io generate 2 {MIB << 20} >/run/test/sent
            nbdcopy /run/test/sent {LOCAL}/a
            nbdcopy nbd://127.0.0.1:{PORT}/a /run/test/received
            cmp /run/test/sent /run/test/received""")
