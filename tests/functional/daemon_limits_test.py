"""[limits] of the configuration, as a client meets them."""

import time

import daemon
import harness
from harness import MIB, pattern

SECONDS = 20  # far under the 60 s of the defaults, far over what the limits here ask for


class Limits(daemon.Case):
    def serve_limited(self, text):
        return self.start_daemon("[limits]\n" + text + daemon.device("a", "0 2048 linear mem:1M 0"))

    def test_a_request_waits_queue_timeout_for_a_suspended_device(self):
        server = self.serve_limited('queue_timeout = "200ms"\n')
        client = self.connect(server, "a")
        client.pwrite(pattern(512, 1), 0)
        server.rpc("suspend", {"device": "a"})
        began = time.monotonic()
        self.assert_errno("EIO", client.pread, 512, 0)
        took = time.monotonic() - began
        self.assertGreaterEqual(took, 0.2)  # it did wait
        self.assertLess(took, SECONDS)      # and not for the default's 60 s
        server.rpc("resume", {"device": "a"})
        self.assertEqual(client.pread(512, 0), pattern(512, 1))

    def test_queue_requests_wait_and_the_next_fails(self):
        server = self.serve_limited("queue_requests = 2\n")
        client = self.connect(server, "a")
        server.rpc("suspend", {"device": "a"})
        data = pattern(512, 2)
        waiting = [client.aio_pwrite(harness.nbd.Buffer.from_bytearray(bytearray(data)), i * 512)
                   for i in range(2)]

        def queued():
            info, = server.rpc("info", {"device": "a"})["devices"]
            return info["queued"] == 2
        harness.wait_until(queued, "two requests in the queue")
        self.assert_errno("EIO", self.connect(server, "a").pread, 512, 0)
        server.rpc("resume", {"device": "a"})
        for cookie in waiting:
            while not client.aio_command_completed(cookie):
                client.poll(-1)
        self.assertEqual(client.pread(1024, 0), data + data)

    def test_a_suspension_gives_up_after_suspend_timeout(self):
        disk = self.make_file("disk", MIB, seed=3)
        server = self.start_daemon('[limits]\nsuspend_timeout = "200ms"\n' +
                                   daemon.device("a", f"0 2048 linear fault:[read=hang]:{disk} 0"))
        client = self.connect(server, "a")
        cookie = client.aio_pread(harness.nbd.Buffer(512), 0)

        def in_flight():
            stats, = server.rpc("stats", {"device": "a"})["devices"]
            return stats["io"]["in_flight"] == 1
        harness.wait_until(in_flight, "the read in flight")
        with self.assertRaises(harness.RpcError) as caught:
            server.rpc("suspend", {"device": "a"})
        self.assertIn("'a'", caught.exception.message)
        server.rpc("message", {"device": "a", "sector": 0, "words": ["leg", "0", "clear"]})
        while not client.aio_command_completed(cookie):
            client.poll(-1)
        self.assertEqual(client.pread(512, 0), pattern(MIB, 3)[:512])  # it goes on
