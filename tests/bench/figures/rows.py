"""The rows: one client's way of loading a server, and what it measured."""

import json
import subprocess
import time

from .procs import BenchError, cpu_seconds, memory_kib, run, settle


class Sample:
    """One run of one row against one server."""

    def __init__(self, value, ops, seconds, p50_us=None, p99_us=None, max_us=None):
        self.value = value  # in the row's unit; more is better
        self.ops = ops
        self.seconds = seconds
        self.p50_us = p50_us
        self.p99_us = p99_us
        self.max_us = max_us
        self.cpu_us = None  # of the server, an operation (nbdcopy: a MiB)
        self.rss_kib = None
        self.pss_kib = None

    def as_dict(self):
        return {k: v for k, v in vars(self).items() if v is not None}


def fio_sample(text, way, unit):
    """The Sample in fio's JSON output; its messages may stand before the brace."""
    job = json.loads(text[text.index("{") :])["jobs"][0]
    if job["error"] != 0:
        raise BenchError(f"fio: error {job['error']}")
    part = job[way]
    if part["total_ios"] == 0:
        raise BenchError("fio: nothing was done")
    value = part["iops"] if unit == "IOPS" else part["bw_bytes"] / 1e6
    percentile = part["clat_ns"]["percentile"]
    return Sample(
        value,
        part["total_ios"],
        part["runtime"] / 1000,
        percentile["50.000000"] / 1000,
        percentile["99.000000"] / 1000,
        part["clat_ns"]["max"] / 1000,
    )


class FioRow:
    per = "op"  # what the server's CPU time is divided by

    def __init__(self, name, way, block, depth, jobs=1):
        self.name = name
        self.way = way
        self.block = block
        self.depth = depth
        self.jobs = jobs
        self.unit = "MB/s" if block >= 1 << 20 else "IOPS"
        self.writes = way == "write"

    def argv(self, uri, seconds, size=None):
        argv = [
            "fio",
            f"--name={self.name}",
            "--ioengine=nbd",
            f"--uri={uri}",
            f"--rw=rand{self.way}",
            f"--bs={self.block}",
            f"--iodepth={self.depth}",
            f"--numjobs={self.jobs}",
            "--time_based",
            f"--runtime={int(seconds * 1000)}ms",
            "--norandommap",
            "--randrepeat=0",
            "--group_reporting",
            "--percentile_list=50:99",
            "--output-format=json",
        ]
        return argv + ([f"--size={size}"] if size else [])

    def run(self, server, seconds, size=None, watch=None):
        popen = subprocess.Popen(
            self.argv(server.uri, seconds, size),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if watch:
            time.sleep(0.6 * seconds + 0.2)
            watch()
        try:
            out, err = popen.communicate(timeout=seconds + 30)
        except subprocess.TimeoutExpired as e:
            popen.kill()
            popen.communicate()
            raise BenchError(f"{self.name}: fio against {server.name} hangs") from e
        if popen.returncode != 0:
            said = (err or out).strip()[-500:]
            raise BenchError(f"{self.name}: fio against {server.name}: {said}")
        return fio_sample(out, self.way, self.unit)


class CopyRow:
    """nbdcopy reads the whole export, again and again until the time is over."""

    unit = "MB/s"
    per = "MiB"
    writes = False

    def __init__(self, connections):
        self.name = f"nbdcopy-{connections}"
        self.connections = connections

    def run(self, server, seconds, size, watch=None):
        # Holes are copied like data: the servers differ in how they tell them.
        argv = ["nbdcopy", "--no-extents", f"--connections={self.connections}", server.uri, "null:"]
        start = time.monotonic()
        copied = 0
        while copied == 0 or time.monotonic() - start < seconds:
            run(argv, 120)
            copied += size
            if watch:
                watch()
                watch = None
        elapsed = time.monotonic() - start
        return Sample(copied / elapsed / 1e6, copied >> 20, elapsed)


ROWS = [
    FioRow("read-4k-qd1", "read", 4096, 1),
    FioRow("write-4k-qd1", "write", 4096, 1),
    FioRow("read-4k-qd64", "read", 4096, 64),
    FioRow("write-4k-qd64", "write", 4096, 64),
    FioRow("read-4k-4x64", "read", 4096, 64, 4),
    FioRow("write-4k-4x64", "write", 4096, 64, 4),
    FioRow("read-1m-qd8", "read", 1 << 20, 8),
    FioRow("write-1m-qd8", "write", 1 << 20, 8),
    CopyRow(1),
    CopyRow(4),
]


def measure(row, server, seconds, size, with_memory=False):
    """Runs the row and adds what it cost the server."""
    memory = []
    watch = (lambda: memory.append(memory_kib(server.pid))) if with_memory else None
    before = cpu_seconds(server.pid)
    sample = row.run(server, seconds, size=size, watch=watch)
    settle(server.pid, server.idle_processes)
    server.process.check_alive()
    sample.cpu_us = (cpu_seconds(server.pid) - before) * 1e6 / sample.ops
    if memory:
        sample.rss_kib, sample.pss_kib = memory[0]
    return sample
