"""Swaps a device's table all the time, each time after clients' I/O has moved on."""

import threading
from collections.abc import Callable

import harness


class Swapper:
    """A thread, from start() to stop(). A swap counts once the device has been read from or
    written to after it, so a count of 20 means that I/O ran before, between and after 20 swaps."""

    def __init__(self, server: harness.Server, device: str, next_table: Callable[[], str]):
        self._control = harness.Control(server.control)
        self._device = device
        self._next_table = next_table
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper")
        self._error: BaseException | None = None
        self.swaps = 0
        self.pauses_s: list[float] = []

    def start(self) -> "Swapper":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Raises what went wrong while it ran. Idempotent."""
        self._stop.set()
        self._thread.join()
        self._control.close()
        if self._error:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._swap(self._next_table())
                before = self._bytes_moved()
                while self._bytes_moved() == before:
                    if self._stop.wait(0.005):
                        return
                self.swaps += 1
        except BaseException as error:  # told by stop()
            self._error = error

    def _swap(self, table: str) -> None:
        self._control.rpc("load", {"device": self._device, "table": table})
        answer = self._control.rpc("resume", {"device": self._device})
        if not answer["swapped"]:
            raise AssertionError(f"resume swapped nothing: {answer}")
        self.pauses_s.append(answer["pause_s"])
        info = self._control.rpc("info", {"device": self._device})["devices"][0]
        if info["targets"] != len(table.splitlines()):
            raise AssertionError(f"{info['targets']} targets serve, of {len(table.splitlines())}")

    def _bytes_moved(self) -> int:
        io = self._control.rpc("stats", {"device": self._device})["devices"][0]["io"]
        return io["read_bytes"] + io["write_bytes"]


