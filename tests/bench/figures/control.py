"""A client of the control socket: JSON-RPC 2.0, one text a line (docs/control-api.md)."""

import json
import socket

from .procs import BenchError


class Control:
    def __init__(self, path, seconds=60):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(seconds)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")
        self.last_id = 0

    def call(self, method, **params):
        """The verb's result; its error is a BenchError."""
        self.last_id += 1
        text = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params}
        self.socket.sendall(json.dumps(text).encode() + b"\n")
        line = self.lines.readline()
        if not line:
            raise BenchError(f"{method}: {self.path}: the server hung up")
        answer = json.loads(line)
        if answer.get("id") != self.last_id:
            raise BenchError(f"{method}: answer to {answer.get('id')}, not to {self.last_id}")
        if "error" in answer:
            raise BenchError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def close(self):
        self.lines.close()
        self.socket.close()
