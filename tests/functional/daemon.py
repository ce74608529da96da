"""blockloomd for the tests: a configuration, the process, and what it tells systemd.

    class Reload(daemon.Case):
        def test_...(self):
            server = self.start_daemon("[[device]]\\nname = 'a'\\ntable = '0 8 zero'")
"""

import os
import queue
import signal
import socket
import subprocess
import threading
import time

import harness


def device(name, table, **settings):
    """A [[device]] entry."""
    more = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f'\n[[device]]\nname = "{name}"\ntable = """\n{table}\n"""\n{more}'


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon(harness.Server):
    """A blockloomd in a folder: blockloom.toml, nbd.sock, control.sock, state/, server.log.

    It is under a service manager, as far as it can tell: `notices` are the assignments that it
    sent to NOTIFY_SOCKET, in order.
    """

    # Not the parent's constructor: blockloomd opens its sockets itself.
    def __init__(self, folder, options=(), environment=None, wrapper=(), plugin=harness.PLUGIN):  # pylint: disable=W0231
        self.folder = folder
        self.config = os.path.join(folder, "blockloom.toml")
        self.socket = os.path.join(folder, "nbd.sock")
        self.control = os.path.join(folder, "control.sock")
        self.log_path = os.path.join(folder, "server.log")
        notify = os.path.join(folder, "notify.sock")
        if os.path.exists(notify):
            os.unlink(notify)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(notify)
        os.chmod(notify, 0o777)
        self.notices, self.unread = [], queue.Queue()
        # Read all the time, as systemd does.
        threading.Thread(target=self.listen, daemon=True).start()
        self.wrapped = bool(wrapper)
        self.started_at = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, harness.BLOCKLOOMD, "--config", self.config,
                 "--plugin", os.path.abspath(plugin), *options],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "LC_ALL": "C", "NOTIFY_SOCKET": notify, **(environment or {})})

    def log(self):
        """What this process said, not the one before it in the same folder."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            log.seek(self.started_at)
            return log.read()

    def listen(self):
        try:
            while text := self.notify.recv(65536).decode():
                self.unread.put(dict(line.split("=", 1) for line in text.splitlines()))
        except OSError:
            pass  # closed: the test is over

    def notice(self, key, seconds=harness.PATIENCE):
        """Waits for the next "KEY=value", and gives the message that has it as a dict."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            alive = self.alive()
            try:
                self.notices.append(self.unread.get(timeout=0.2))
            except queue.Empty:
                if not alive:
                    break
                continue
            if key in self.notices[-1]:
                return self.notices[-1]
        raise AssertionError(f"no {key} from the daemon\n{self.log()}")

    def wait_ready(self, seconds=harness.PATIENCE):
        self.notice("READY", seconds)
        return self

    def hang_up(self):
        """SIGHUP, and what the daemon says of itself when it has read its configuration."""
        self.signal(signal.SIGHUP)
        self.notice("RELOADING")
        return self.notice("READY")["STATUS"]

    def close_notify(self):
        try:
            self.notify.shutdown(socket.SHUT_RDWR)  # wakes the listener
        except OSError:
            pass
        self.notify.close()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Case(harness.Case):
    def configure(self, folder, text, listen=None, control=True, state=False, more=""):
        """Writes blockloom.toml: a Unix socket and what the text says. `more` goes in [server]."""
        listeners = listen if listen is not None else [f"unix:{folder}/nbd.sock"]
        lines = ["[server]"]
        if listeners:
            lines.append("listen = [" + ", ".join(f'"{x}"' for x in listeners) + "]")
        if control:
            lines.append(f'control = "{folder}/control.sock"')
        if state:
            lines.append(f'state_dir = "{folder}/state"')
        with open(os.path.join(folder, "blockloom.toml"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n" + more + "\n" + text)

    def new_folder(self):
        self.servers += 1
        folder = self.path(f"s{self.servers}")
        os.mkdir(folder)
        return folder

    def run_daemon(self, folder, ready=True, **how):
        server = Daemon(folder, **how)
        self.addCleanup(server.close_notify)
        self.addCleanup(server.stop)
        return server.wait_ready() if ready else server

    def start_daemon(self, text="", **settings):
        folder = self.new_folder()
        self.configure(folder, text, **settings)
        return self.run_daemon(folder)

    def blockloomd(self, *words, check=False, environment=None):
        """Runs it to its end."""
        return self.command(harness.BLOCKLOOMD, "--plugin", os.path.abspath(harness.PLUGIN), *words,
                            check=check, environment=environment)
