"""A server with a crash-dump store, for the tests of dumps."""

import hashlib
import json
import os

import daemon
import harness


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Case(daemon.Case):
    """`self.server` is a blockloomd whose dumps are in `self.store`."""

    listeners = {"netdump": "udp", "stream": "tcp", "netconsole": "udp"}

    def start_dumps(self, folder=None, store=None, more="", wrapper=(), ready=True, **listeners):
        """Ports are the kernel's choice; control tells them."""
        folder = folder or self.new_folder()
        self.store = store or os.path.join(folder, "crash")
        lines = ["[dump]", f'store = "{self.store}"']
        for name in listeners.pop("listen", ["netdump"]):
            lines.append(f'{name} = ["{self.listeners[name]}:{listeners.pop("bind", "127.0.0.1:0")}"]')
        self.configure(folder, "\n".join(lines) + "\n" + more)
        self.server = self.run_daemon(folder, ready=ready, wrapper=wrapper)
        if ready:
            self.info = self.server.rpc("dump_info")
        return self.server

    def restart_dumps(self, more="", listen=("netdump",)):
        """The same store and the same ports, after the server was ended or killed."""
        ports = {name: self.info[f"{name}_listeners"][0] for name in listen}
        lines = ["[dump]", f'store = "{self.store}"']
        lines += [f'{name} = ["{self.listeners[name]}:{where}"]' for name, where in ports.items()]
        self.configure(self.server.folder, "\n".join(lines) + "\n" + more)
        self.server = self.run_daemon(self.server.folder)
        self.info = self.server.rpc("dump_info")
        return self.server

    def port(self, name="netdump"):
        return int(self.info[f"{name}_listeners"][0].rsplit(":", 1)[1])

    def dumps(self, host=None):
        found = self.server.rpc("dump_list")["dumps"]
        return [d for d in found if host is None or host in (d["host"], d["address"])]

    def one_dump(self, host=None):
        found = self.dumps(host)
        self.assertEqual(len(found), 1, json.dumps(found, indent=1))
        return found[0]

    def wait_over(self, host=None, seconds=harness.PATIENCE):
        """The one dump of this host once it is no longer being received."""
        def over():
            found = self.dumps(host)
            return found[0] if found and found[0]["state"] != "receiving" else None
        harness.wait_until(over, f"a dump of {host} that is over", seconds)
        return self.one_dump(host)

    def wait_digest(self, dump):
        """The dump's record once its digest is known."""
        def done():
            shown = self.server.rpc("dump_show", {"dump": dump["id"]})
            return shown if shown["sha256"] else None
        return harness.wait_until(done, "the digest")

    def image_of(self, dump):
        name = dump["image"] or "vmcore-incomplete"
        return self.read_file(os.path.join(self.store, dump["id"], name))

    def file_of(self, dump, name):
        return self.read_file(os.path.join(self.store, dump["id"], name))

    def events(self):
        return [e for e in self.server.rpc("events")["events"] if e["kind"].startswith("dump_")]
