"""The control socket of a running server under clients that mean no good, and its end."""

import json
import os
import socket
import stat
import threading
import time

import daemon
import harness


class Hostile(daemon.Case):
    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", 1 << 20, seed=1)
        self.server = self.start_daemon(daemon.device("vol0", f"0 2048 linear {self.disk} 0"))

    def raw(self):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(harness.PATIENCE)
        client.connect(self.server.control)
        self.addCleanup(client.close)
        return client

    def answer(self, client):
        data = b""
        while not data.endswith(b"\n"):
            more = client.recv(65536)
            if not more:
                self.fail(f"the server hung up after {data!r}")
            data += more
        return json.loads(data)

    def assert_serves(self):
        self.assertEqual(self.server.rpc("list")["devices"][0]["name"], "vol0")
        self.connect(self.server, "vol0").pread(512, 0)

    def test_the_socket_is_private(self):
        self.assertEqual(stat.S_IMODE(os.stat(self.server.control).st_mode), 0o600)

    def test_malformed_requests_get_the_specifications_codes(self):
        client = self.raw()
        for text, code in ((b"hello", -32700), (b"{", -32700), (b"\xff\xfe", -32700),
                           (b"[]", -32600), (b"1", -32600), (b"[" * 100000, -32600),
                           (b'{"jsonrpc":"2.0","id":1}', -32600),
                           (b'{"jsonrpc":"2.0","id":1,"method":"frob"}', -32601),
                           (b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"x":1}}', -32602),
                           (b'{"jsonrpc":"2.0","id":1,"method":"info","params":[1]}', -32602)):
            client.sendall(text + b"\n")
            self.assertEqual(self.answer(client)["error"]["code"], code, text[:60])
        self.assert_serves()

    def test_a_request_without_end(self):
        client = self.raw()
        chunk = b" " * (1 << 20)
        try:
            for _ in range(64):
                client.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up before all was sent, as it should
        else:
            self.fail("64 MiB were taken")
        self.assert_serves()

    def test_a_large_table_passes(self):
        lines = "\n".join(f"{i * 8} 8 zero" for i in range(100_000))
        self.server.rpc("create", {"name": "big", "table": lines})
        self.assertEqual(len(self.server.rpc("table", {"device": "big"})["devices"][0]["lines"]),
                         100_000)

    def test_many_clients_with_many_requests(self):
        failures = []

        def talk(number):
            try:
                control = harness.Control(self.server.control)
                for i in range(40):
                    name = f"d{number}-{i}"
                    control.rpc("create", {"name": name, "table": "0 8 zero"})
                    control.rpc("load", {"device": name, "table": "0 16 zero"})
                    control.rpc("resume", {"device": name})
                    control.rpc("status")
                    control.rpc("remove", {"device": name})
                control.close()
            except Exception as error:  # pylint: disable=broad-except
                failures.append(repr(error))

        threads = [threading.Thread(target=talk, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.PATIENCE * 3)
        self.assertEqual(failures, [])
        self.assertEqual([d["name"] for d in self.server.rpc("list")["devices"]], ["vol0"])

    def test_more_connections_than_are_served(self):
        clients = [self.raw() for _ in range(80)]
        refused = 0
        for client in clients:
            client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"version"}\n')
        for client in clients:
            error = self.answer(client).get("error")
            if error:
                self.assertEqual(error["data"]["errc"], "limit")
                refused += 1
        self.assertEqual(refused, 80 - 64)
        for client in clients:
            client.close()
        harness.wait_until(self.served_again, "room for new clients")

    def served_again(self):
        try:
            return self.server.rpc("list")
        except (harness.RpcError, ConnectionError):
            return None

    def test_connections_that_come_and_go_leave_nothing(self):
        self.assert_serves()
        before = self.server.descriptors()
        for i in range(300):
            client = self.raw()
            if i % 3 == 0:
                client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"wait","params":{"device":"vol0"}}\n')
            elif i % 3 == 1:
                client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n{"half')
            client.close()
        harness.wait_until(lambda: self.server.descriptors() <= before + 2,
                           "the server to close what its clients closed")
        self.assert_serves()


class End(daemon.Case):
    def test_sigterm_while_verbs_wait(self):
        disk = self.make_file("a.img", 1 << 20)
        server = self.start_daemon(
            daemon.device("vol0", f"0 2048 linear fault:[write=hang]:{disk} 0"))
        client = self.connect(server, "vol0")
        client.aio_pwrite(bytearray(512), 0)
        harness.wait_until(
            lambda: server.rpc("stats")["devices"][0]["io"]["in_flight"], "the write in flight")
        waiting = []
        for method, params in (("suspend", {"device": "vol0", "timeout_s": 3600}),
                               ("wait", {"device": "vol0"}), ("events", {"follow": True})):
            control = harness.Control(server.control)
            self.addCleanup(control.close)
            call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            control.file.write(json.dumps(call).encode() + b"\n")
            control.file.flush()
            waiting.append(control)
        self.assertIn("result", json.loads(waiting[2].file.readline()))
        time.sleep(0.2)  # until the suspension has begun; if it has not, it must end as well
        self.assertEqual(server.terminate(), 0)
        self.assertFalse(os.path.exists(server.control))

    def test_a_killed_servers_socket_is_taken_over(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("vol0", "0 8 zero"))
        server = self.run_daemon(folder)
        server.kill()
        self.assertTrue(os.path.exists(server.control))
        again = self.run_daemon(folder)
        self.assertEqual(again.rpc("list")["devices"][0]["name"], "vol0")

    def test_two_servers_do_not_share_a_socket(self):
        folder = self.new_folder()
        self.configure(folder, daemon.device("vol0", "0 8 zero"))
        first = self.run_daemon(folder)
        other = self.new_folder()
        self.configure(other, daemon.device("vol1", "0 8 zero"), control=False,
                       more=f'control = "{first.control}"')
        second = self.run_daemon(other, ready=False)
        self.assertNotEqual(second.wait_end(), 0)
        self.assertIn("another server listens there", second.log())
        self.assertEqual(first.rpc("list")["devices"][0]["name"], "vol0")
