"""A network that breaks."""

import socket
import threading
import time


class CuttingProxy:
    """Carries TCP to a port, and cuts the connections after so many bytes each."""

    def __init__(self, port, cut_after, slow=False):
        self.target, self.cut_after, self.cuts, self.slow = port, list(cut_after), 0, slow
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self.open += [client, server]
            limit = self.cut_after.pop(0) if self.cut_after else None
            threading.Thread(target=self.carry, args=(client, server, limit), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, None), daemon=True).start()

    def carry(self, source, sink, limit):
        total = 0
        try:
            while data := source.recv(65536):
                total += len(data)
                if limit is not None and total > limit:
                    self.cuts += 1
                    break
                if self.slow:
                    time.sleep(0.005)
                sink.sendall(data)
        except OSError:
            pass
        self.end(source)
        self.end(sink)

    @staticmethod
    def end(connection):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()

    def cut_all(self):
        for connection in self.open:
            self.end(connection)

    def close(self):
        self.end(self.listener)
        self.cut_all()
