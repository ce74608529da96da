"""Swap under load: load and resume, a thousand times, between two layouts of the same bytes, while
fio writes and verifies and a probe reads. Nothing may fail, no byte may be wrong."""

import array
import bisect
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time

from .control import Control
from .procs import BenchError, Process
from .servers import SECTOR, Place

CHUNK = 1 << 20
DEVICE = "swap0"


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def layouts(legs, size):
    """The same bytes twice: a stripe set, and a linear segment for each of its chunks."""
    chunk = CHUNK // SECTOR
    striped = f"0 {size // SECTOR} striped 2 {chunk} {legs[0]} 0 {legs[1]} 0\n"
    segments = [
        f"{i * chunk} {chunk} linear {legs[i % 2]} {i // 2 * chunk}\n"
        for i in range(size // CHUNK)
    ]
    return {"striped": striped, "linear": "".join(segments)}


class Load:
    """fio writing and verifying, and the probe, at the device."""

    def __init__(self, folder, place, seconds):
        self.out = os.path.join(folder, "fio.json")
        self.times = os.path.join(folder, "probe.times")
        self.seconds = seconds
        here = os.path.dirname(os.path.abspath(__file__))
        self.fio = subprocess.Popen(
            [
                "fio",
                "--name=verify",
                "--ioengine=nbd",
                f"--uri={place.uri(DEVICE)}",
                "--rw=randwrite",
                "--bs=4k",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_backlog=512",
                "--verify_fatal=1",
                "--verify_dump=0",
                "--time_based",
                f"--runtime={seconds}",
                "--output-format=json",
                f"--output={self.out}",
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.probe = subprocess.Popen(
            [sys.executable, os.path.join(here, "probe.py"), place.address, DEVICE, self.times],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self):
        for p in (self.fio, self.probe):
            if p.poll() is None:
                p.kill()
                p.communicate()

    def finish_after(self, seconds):
        time.sleep(seconds)
        return self.finish()

    def finish(self):
        """Waits for both; gives back fio's figures and the probe's (start, end) times."""
        said, _ = self.probe.communicate(timeout=60)  # closes its standard input: it ends
        if self.probe.returncode != 0:
            raise BenchError(f"probe: {said.strip()}")
        said, _ = self.fio.communicate(timeout=self.seconds + 60)
        with open(self.out, encoding="utf-8") as f:
            text = f.read()
        if self.fio.returncode != 0:
            raise BenchError(f"fio verify: exit {self.fio.returncode}: {(said + text)[-500:]}")
        job = json.loads(text[text.index("{") :])["jobs"][0]
        if job["error"] != 0 or job["read"]["total_ios"] == 0:
            raise BenchError(f"fio verify: error {job['error']}, or nothing was verified")
        times = array.array("Q")
        with open(self.times, "rb") as f:
            times.frombytes(f.read())
        return job, (times[0::2], times[1::2])


def _fio_figures(job):
    percentile = job["write"]["clat_ns"]["percentile"]
    return {
        "writes_per_s": job["write"]["iops"],
        "verified_blocks": job["read"]["total_ios"],
        "write_p50_us": percentile["50.000000"] / 1e3,
        "write_p99_us": percentile["99.000000"] / 1e3,
        "write_max_us": job["write"]["clat_ns"]["max"] / 1e3,
    }


def longest_in(windows, starts, ends):
    """For each window the longest of the probe's requests that overlap it, in microseconds. The
    requests are in order and do not overlap each other."""
    longest = []
    for begin, end in windows:
        first = bisect.bisect_right(ends, begin)
        last = bisect.bisect_left(starts, end)
        spans = [ends[i] - starts[i] for i in range(first, last)]
        if spans:
            longest.append(max(spans) / 1e3)
    return longest


def _swap_all(control, tables, count, pace):
    """Returns the pauses that resume told, and when each swap went on (monotonic ns)."""
    pauses, windows, loads = [], [], []
    names = list(tables)
    begin = time.monotonic()
    for i in range(count):
        wait = begin + i * pace - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        t0 = time.monotonic_ns()
        control.call("load", device=DEVICE, table=tables[names[(i + 1) % 2]])
        t1 = time.monotonic_ns()
        answer = control.call("resume", device=DEVICE)
        t2 = time.monotonic_ns()
        if not answer["swapped"]:
            raise BenchError(f"swap {i}: resume swapped nothing: {answer}")
        loads.append((t1 - t0) / 1e3)
        pauses.append(answer["pause_s"] * 1e6)
        windows.append((t1, t2))
    return pauses, windows, loads


def digest(argv_or_path):
    total = hashlib.sha256()
    with subprocess.Popen(argv_or_path, stdout=subprocess.PIPE) as p:
        for block in iter(lambda: p.stdout.read(1 << 20), b""):
            total.update(block)
    if p.returncode != 0:
        raise BenchError(f"{' '.join(argv_or_path)}: exit {p.returncode}")
    return total.hexdigest()


def legs_digest(legs, size):
    """What a client should read, put together from the legs without the engine."""
    total = hashlib.sha256()
    with open(legs[0], "rb") as a, open(legs[1], "rb") as b:
        for i in range(size // CHUNK):
            total.update((a, b)[i % 2].read(CHUNK))
    return total.hexdigest()


def _check_bytes(control, place, legs, size, tables):
    """Both layouts read as the legs' bytes."""
    expected = legs_digest(legs, size)
    for name, table in tables.items():
        control.call("load", device=DEVICE, table=table)
        control.call("resume", device=DEVICE)
        if digest(["nbdcopy", place.uri(DEVICE), "-"]) != expected:
            raise BenchError(f"after the swaps, layout '{name}' does not read as its legs")


def start(plugin, folder, tables):
    place = Place(folder, "unix", "swaps")
    table_file = os.path.join(folder, "swaps.table")
    with open(table_file, "w", encoding="ascii") as f:
        f.write(tables["striped"])
    socket_path = os.path.join(folder, "control.sock")
    argv = place.nbdkit() + [plugin, f"device={DEVICE}:@{table_file}", f"control={socket_path}"]
    process = Process(argv, place.log)
    process.wait_ready(place.address)
    process.wait_ready(socket_path)
    return place, process, Control(socket_path)


def run(plugin, folder, count, seconds, size):
    """The figures; raises BenchError when an I/O failed or a byte was wrong."""
    folder = os.path.join(folder, "swaps")
    os.makedirs(folder)
    legs = [os.path.join(folder, "leg0"), os.path.join(folder, "leg1")]
    for leg in legs:
        with open(leg, "wb") as f:
            for _ in range(0, size // 2, CHUNK):
                f.write(random.randbytes(CHUNK))
    tables = layouts(legs, size)
    place, process, control = start(plugin, folder, tables)
    load = None
    try:
        load = Load(folder, place, max(3, seconds // 3))
        quiet_job, (starts, ends) = load.finish_after(max(2, seconds // 3 - 1))
        quiet_request = statistics.median(e - s for s, e in zip(starts, ends)) / 1e3
        load = Load(folder, place, seconds)
        time.sleep(0.7)  # until fio is on its way
        pauses, windows, loads = _swap_all(control, tables, count, (seconds - 2) / count)
        ended_before = load.fio.poll() is not None
        job, (starts, ends) = load.finish()
        if ended_before:
            raise BenchError(f"{count} swaps took longer than fio ran ({seconds} s)")
        _check_bytes(control, place, legs, size, tables)
    finally:
        if load:
            load.kill()
        control.close()
        clean = process.stop()
    if not clean:
        raise BenchError("nbdkit: not ended 10 s after SIGTERM")
    # As many windows of the same length, half way between two swaps: what the load alone does.
    calm = [
        ((a[1] + b[0]) // 2, (a[1] + b[0]) // 2 + a[1] - a[0]) for a, b in zip(windows, windows[1:])
    ]
    seen, calm_seen = longest_in(windows, starts, ends), longest_in(calm, starts, ends)
    request = statistics.median(e - s for s, e in zip(starts, ends)) / 1e3

    def both(values):
        return {"median": statistics.median(values), "p99": quantile(values, 0.99)}

    return {
        "swaps": count,
        "layouts": f"striped, 2 legs, and {size // CHUNK} linear segments",
        "load_us": both(loads),
        "resume_us": both([(b - a) / 1e3 for a, b in windows]),
        "pause_us": both(pauses),
        "seen_us": both(seen),
        "calm_us": both(calm_seen),
        "request_us": request,
        "quiet_request_us": quiet_request,
        "fio": _fio_figures(job),
        "fio_without_swaps": _fio_figures(quiet_job),
    }
