"""nbdkit on a loopback port of the kernel's choice, for as long as the context lasts."""

import contextlib
import pathlib
import socket
import subprocess
from collections.abc import Iterator

# nbdkit takes its listening socket as systemd would hand it over: it can be connected to before
# nbdkit is up, and no port has to be guessed.
ACTIVATE = 'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'


class ServerError(Exception):
    pass


@contextlib.contextmanager
def serve(log: pathlib.Path, *arguments: str) -> Iterator[int]:
    """Runs `nbdkit ARGUMENTS`; gives the port. Fails at the end if nbdkit died on the way or
    ended badly."""
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as out:
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            ["sh", "-c", ACTIVATE, "sh", "nbdkit", "--foreground", "--exit-with-parent",
             "--threads=8", *arguments],
            stdin=listener, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield port
        if server.poll() is not None:
            raise ServerError(f"nbdkit ended by itself, {server.returncode}:\n{_end_of(log)}")
    finally:
        rc = _stop(server)
    if rc != 0:
        raise ServerError(f"nbdkit ended with {rc}:\n{_end_of(log)}")


def _stop(server: subprocess.Popen) -> int:
    server.terminate()
    try:
        return server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _end_of(log: pathlib.Path) -> str:
    return log.read_text(errors="replace")[-4000:]
