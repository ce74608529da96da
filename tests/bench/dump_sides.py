"""The sides that tests/bench/dump compares: a Blockloom server, nc, ssh, makedumpfile."""

import getpass
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import struct
import subprocess
import time

MIB = 1 << 20
TICK = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, what):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{what} does not listen on port {port}")


class Server:
    """blockloomd with its store in the folder. A context."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.port, self.netdump_port = free_port(), free_port()
        self.control = os.path.join(folder, "control.sock")
        config = os.path.join(folder, "blockloom.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nlisten = ["unix:{folder}/nbd.sock"]\ncontrol = "{self.control}"\n'
                       f'[dump]\nstore = "{folder}/crash"\nstream = ["tcp:127.0.0.1:{self.port}"]\n'
                       f'netdump = ["udp:127.0.0.1:{self.netdump_port}"]\nbegins_per_minute = 0\n')
        self.log = open(os.path.join(folder, "server.log"), "wb")
        self.process = subprocess.Popen(
            [os.path.join(build, "server/daemon/blockloomd"), "--config", config, "--plugin",
             os.path.join(build, "plugins/nbdkit/nbdkit-blockloom-plugin.so")],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_for_port(self.port, self.process, "the server")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def blockloom(self, *words, check=True):
        return subprocess.run([os.path.join(self.build, "clients/blockloom/blockloom"), "--socket",
                               self.control, "--json", "dump", *words], check=check,
                              capture_output=True, text=True, timeout=PATIENCE).stdout

    def clear(self):
        """Removes every dump, once nobody reads it any more, and waits until the server is idle."""
        deadline = time.monotonic() + 60
        while dumps := json.loads(self.blockloom("ls"))["dumps"]:
            for dump in dumps:
                self.blockloom("rm", dump["id"], check=False)
            if time.monotonic() > deadline:
                raise SystemExit("dumps cannot be removed")
            time.sleep(0.05)
        while True:
            before = self.cpu()
            time.sleep(0.2)
            if self.cpu() - before < 0.02 or time.monotonic() > deadline:
                return

    def cpu(self):
        """CPU seconds of all of its threads so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def memory(self):
        """Resident bytes of the server's own, without files' pages."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as status:
            return int(re.search(r"RssAnon:\s+(\d+)", status.read())[1]) * 1024

    def send(self, image, host="bench"):
        return subprocess.Popen(
            [os.path.join(self.build, "clients/blockloom-dump/blockloom-dump"), "send", "--quiet",
             "--to", f"127.0.0.1:{self.port}", "--host", host, image],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def timed_send(self, image):
        """Seconds until the dump is called complete, and the server's CPU seconds for it."""
        cpu, began = self.cpu(), time.monotonic()
        if (code := self.send(image).wait(PATIENCE)) != 0:
            raise SystemExit(f"blockloom-dump: exit {code}")
        return time.monotonic() - began, self.cpu() - cpu

    def cpu_of_send(self, image):
        cpu = self.timed_send(image)[1]
        self.clear()
        return cpu

    def start_netdump(self, machines, mib, mtu=1500):
        return subprocess.Popen(
            [os.path.join(self.build, "tests/bench/netdump_load"), "--port", str(self.netdump_port),
             "--machines", str(machines), "--mib", str(mib), "--mtu", str(mtu)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def netdump(self, machines, mib, mtu):
        with self.start_netdump(machines, mib, mtu) as load:
            out = load.communicate(timeout=PATIENCE)[0]
        if load.returncode != 0:
            raise SystemExit(f"netdump_load: exit {load.returncode}")
        return json.loads(out)

    def many_streams(self, machines, mib):
        image = os.path.join(self.folder, "small")
        with open(image, "wb") as file:
            file.write(os.urandom(mib * MIB))
        before, most, began = self.memory(), 0, time.monotonic()
        senders = {self.send(image, f"m{i}"): None for i in range(machines)}
        while None in senders.values():
            for sender, ended in senders.items():
                if ended is None and sender.poll() is not None:
                    senders[sender] = time.monotonic() - began
                    if sender.returncode != 0:
                        raise SystemExit(f"blockloom-dump: exit {sender.returncode}")
            most = max(most, self.memory())
            time.sleep(0.01)
        self.clear()
        return summary(list(senders.values()), mib, before, most)

    def many_netdumps(self, machines, mib):
        before, most = self.memory(), 0
        with self.start_netdump(machines, mib) as load:
            while load.poll() is None:
                most = max(most, self.memory())
                time.sleep(0.01)
            out = load.stdout.read()
        if load.returncode != 0:
            raise SystemExit(f"netdump_load: exit {load.returncode}")
        self.clear()
        return summary(json.loads(out)["ends"], mib, before, most)


def summary(ends, mib, before, most):
    """Fairness is Jain's index of the machines' speeds: 1 is equal, 1/n is one alone."""
    speeds = [mib / end for end in ends]
    return {"machines": len(ends), "mib_each": mib, "first_s": min(ends), "last_s": max(ends),
            "mib_per_s": len(ends) * mib / max(ends),
            "fairness": sum(speeds) ** 2 / (len(speeds) * sum(s * s for s in speeds)),
            "most_mib": most / MIB, "kib_per_session": max(0, most - before) / 1024 / len(ends)}


def timed_nc(image, out):
    port = free_port()
    with open(out, "wb") as sink, open(image, "rb") as source:
        receiver = subprocess.Popen(["nc", "-l", "127.0.0.1", str(port)], stdout=sink,
                                    stdin=subprocess.DEVNULL)
        time.sleep(0.3)
        began = time.monotonic()
        subprocess.run(["nc", "-N", "127.0.0.1", str(port)], stdin=source, check=True,
                       stdout=subprocess.DEVNULL, timeout=PATIENCE)
        receiver.wait(PATIENCE)
        took = time.monotonic() - began
    check_copy(image, out, "nc")
    return took


def check_copy(image, out, who):
    if os.path.getsize(out) != os.path.getsize(image):
        raise SystemExit(f"{who}: not everything arrived")
    os.unlink(out)


class Sshd:
    """A private sshd on loopback, with keys of its own."""

    def __init__(self, process, port, folder):
        self.process, self.port, self.folder = process, port, folder

    @classmethod
    def start(cls, folder, program=None):
        """None if there is no sshd or no ssh."""
        program = program or shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        if not program or not shutil.which("ssh"):
            return None
        keys = os.path.join(folder, "ssh")
        os.mkdir(keys, 0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{keys}/{name}"],
                           check=True, timeout=PATIENCE)
        port = free_port()
        with open(f"{keys}/config", "w", encoding="utf-8") as file:
            file.write(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nPidFile none\n"
                       f"AuthorizedKeysFile {keys}/user.pub\nStrictModes no\nUsePAM no\n"
                       "PasswordAuthentication no\nPermitRootLogin prohibit-password\n")
        command = [os.path.abspath(program), "-D", "-e", "-f", f"{keys}/config"]
        if os.geteuid() == 0:
            command = in_own_namespace(keys, command)
        with open(f"{keys}/log", "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_port(port, process, "sshd")
        return cls(process, port, keys)

    def timed_dd(self, image, out):
        """As kdump's scripts send: ssh HOST dd of=FILE."""
        command = ["ssh", "-F", "none", "-i", f"{self.folder}/user", "-p", str(self.port),
                   "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.folder}/known",
                   "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
                   f"{getpass.getuser()}@127.0.0.1", f"dd bs=512 of={shlex.quote(out)} status=none"]
        with open(image, "rb") as source:
            began = time.monotonic()
            subprocess.run(command, stdin=source, check=True, timeout=PATIENCE)
            took = time.monotonic() - began
        check_copy(image, out, "ssh")
        return took

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder)


def in_own_namespace(keys, command):
    """root's sshd wants a user "sshd" and a folder /run/sshd: it finds them, and nobody else does."""
    passwd = f"{keys}/passwd"
    with open("/etc/passwd", encoding="utf-8") as file:
        text = file.read()
    try:
        pwd.getpwnam("sshd")
    except KeyError:
        text += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    with open(passwd, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(passwd, 0o644)
    script = 'mount --bind "$1" /etc/passwd && mount -t tmpfs -o mode=0755 none /run && ' \
             'mkdir /run/sshd && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sshd", passwd, *command]


def write_flattened(image, stream, record):
    """As makedumpfile -F writes it: the image, and its first block once more at the end."""
    def put(out, offset, data):
        out.write(struct.pack(">qq", offset, len(data)))
        out.write(data)

    with open(image, "rb") as source, open(stream, "wb") as out:
        out.write(struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0"))
        first, offset = b"", 0
        while data := source.read(record):
            first = first or data[:4096]
            put(out, offset, data)
            offset += len(data)
        put(out, 0, first)
        out.write(b"\xff" * 16)


def cpu_of_makedumpfile(stream, out):
    with open(stream, "rb") as source:
        process = subprocess.Popen(["makedumpfile", "-R", out], stdin=source,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"makedumpfile -R: exit {process.returncode}")
    os.unlink(out)
    return usage.ru_utime + usage.ru_stime
