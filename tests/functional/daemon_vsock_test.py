"""vsock listeners, as far as a kernel without a loopback lets them be seen. Clients over vsock are
tests/guest/vsock_test.py, with a kernel that has one."""

import errno
import socket
import unittest

import daemon


def why_not():
    """What keeps vsock away from here; empty: nothing."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    except OSError as error:
        return f"this kernel has no vsock: {error}"
    return ""


MISSING = why_not()


@unittest.skipIf(MISSING, MISSING)
class Vsock(daemon.Case):
    @staticmethod
    def free_port():
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            return probe.getsockname()[1]

    def start_vsock(self):
        folder, port = self.new_folder(), self.free_port()
        self.configure(folder, daemon.device("a", "0 8 zero"), listen=[f"vsock:{port}"],
                       more="insecure = true")
        return self.run_daemon(folder), port

    def test_the_port_is_taken_while_it_serves(self):
        server, port = self.start_vsock()
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as second:
            with self.assertRaises(OSError) as caught:
                second.bind((socket.VMADDR_CID_ANY, port))
            self.assertEqual(caught.exception.errno, errno.EADDRINUSE)
        uris = [one["uri"] for one in server.rpc("attach_help", {"device": "a"})["endpoints"]]
        self.assertTrue(any("vsock" in uri and str(port) in uri for uri in uris), uris)
        self.assertIn("is public without TLS", server.log())
        self.assertEqual(server.terminate(), 0)
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as second:
            second.bind((socket.VMADDR_CID_ANY, port))  # and free after it

    def test_a_port_that_is_taken_is_told(self):
        folder, port = self.new_folder(), self.free_port()
        self.configure(folder, daemon.device("a", "0 8 zero"), listen=[f"vsock:{port}"],
                       more="insecure = true")
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as taken:
            taken.bind((socket.VMADDR_CID_ANY, port))
            taken.listen(1)
            done = self.blockloomd(f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"cannot listen on 'vsock:any:{port}'", done.stderr)


if __name__ == "__main__":
    unittest.main()
