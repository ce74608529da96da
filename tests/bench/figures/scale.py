"""Scale: a thousand devices in one process, and ten thousand segments in one table, each beside
the same with one."""

import os
import random
import statistics
import time

from .control import Control
from .procs import BenchError, Process, memory_kib
from .rows import ROWS, measure
from .servers import SECTOR, Place, Server

IO_ROWS = ("read-4k-qd1", "read-4k-qd64")
SEGMENT = 104 << 10  # a multiple of 4 KiB, so that no request is split


class Instance:
    """nbdkit with our plugin, some devices, and a control socket."""

    def __init__(self, plugin, folder, name, devices):
        self.place = Place(folder, "unix", name)
        socket_path = os.path.join(folder, f"{name}.control")
        argv = self.place.nbdkit() + [plugin, f"control={socket_path}"]
        for device, table in devices.items():
            path = os.path.join(folder, f"{name}-{device}.table")
            with open(path, "w", encoding="ascii") as f:
                f.write(table)
            argv.append(f"device={device}:@{path}")
        begin = time.monotonic()
        self.process = Process(argv, self.place.log)
        self.process.wait_ready(self.place.address, 60)
        self.seconds = time.monotonic() - begin
        self.process.wait_ready(socket_path)
        self.control = Control(socket_path)

    def rss_kib(self):
        return memory_kib(self.process.pid)[0]

    def server(self, device):
        return Server(device, self.process, self.place.uri(device), self.place.address)

    def stop(self):
        self.control.close()
        if not self.process.stop():
            raise BenchError("nbdkit: not ended 10 s after SIGTERM")


def compare(pair, rounds, seconds, size):
    """I/O on (one, many), in turn; many as a ratio of one, per row."""
    rows = {}
    for row in (r for r in ROWS if r.name in IO_ROWS):
        samples = {"one": [], "many": []}
        for number in range(rounds):
            order = list(zip(("one", "many"), pair))
            for name, server in order[::-1] if number % 2 else order:
                samples[name].append(measure(row, server, seconds, size))
        ratios = [m.value / o.value for o, m in zip(samples["one"], samples["many"])]
        rows[row.name] = {
            "one": statistics.median(s.value for s in samples["one"]),
            "many": statistics.median(s.value for s in samples["many"]),
            "one_cpu_us": statistics.median(s.cpu_us for s in samples["one"]),
            "many_cpu_us": statistics.median(s.cpu_us for s in samples["many"]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
    return rows


def segments_table(image, count):
    """Over the same bytes as one segment, in place."""
    length = SEGMENT // SECTOR
    return "".join(f"{i * length} {length} linear {image} {i * length}\n" for i in range(count))


def segments(plugin, folder, image, count, rounds, seconds):
    one_table = f"0 {count * SEGMENT // SECTOR} linear {image} 0\n"
    many_table = segments_table(image, count)
    memory, start = {}, {}
    for name, table in (("one", one_table), ("many", many_table)):
        instance = Instance(plugin, folder, f"segments-{name}", {"dev": table})
        memory[name], start[name] = instance.rss_kib(), instance.seconds
        instance.stop()
    both = Instance(plugin, folder, "segments", {"one": one_table, "many": many_table})
    try:
        begin = time.monotonic()
        both.control.call("load", device="one", table=many_table)
        load_s = time.monotonic() - begin
        both.control.call("clear", device="one")
        pair = (both.server("one"), both.server("many"))
        rows = compare(pair, rounds, seconds, count * SEGMENT)
    finally:
        both.stop()
    return {
        "segments": count,
        "start_s": start["many"],
        "start_one_s": start["one"],
        "load_s": load_s,
        "bytes_a_segment": (memory["many"] - memory["one"]) * 1024 / count,
        "rows": rows,
    }


def devices(plugin, folder, image, count, rounds, seconds):
    length = SEGMENT // SECTOR
    whole = f"0 {count * length} linear {image} 0\n"
    one = Instance(plugin, folder, "devices-one", {"dev": whole})
    many = Instance(plugin, folder, "devices-many", {"dev": whole})
    try:
        before = many.rss_kib()
        took = []
        for i in range(count - 1):
            begin = time.monotonic()
            table = f"0 {length} linear {image} {i * length}\n"
            many.control.call("create", name=f"dev{i:04}", table=table)
            took.append((time.monotonic() - begin) * 1e6)
        after = many.rss_kib()
        pair = (one.server("dev"), many.server("dev"))
        rows = compare(pair, rounds, seconds, count * SEGMENT)
        removed = time.monotonic()
        for i in random.Random(1).sample(range(count - 1), count - 1):
            many.control.call("remove", device=f"dev{i:04}")
        removed = time.monotonic() - removed
    finally:
        one.stop()
        many.stop()
    return {
        "devices": count,
        "create_us": statistics.median(took),
        "create_all_s": sum(took) / 1e6,
        "remove_all_s": removed,
        "kib_a_device": (after - before) / (count - 1),
        "rows": rows,
    }


def run(plugin, folder, options):
    folder = os.path.join(folder, "scale")
    os.makedirs(folder)
    image = os.path.join(folder, "image")
    size = options.segments * SEGMENT
    with open(image, "wb") as f:
        block = random.randbytes(1 << 20)
        for at in range(0, size, len(block)):
            f.write(block[: size - at])
    try:
        return {
            "segments": segments(
                plugin, folder, image, options.segments, options.scale_rounds, options.seconds
            ),
            "devices": devices(
                plugin, folder, image, options.devices, options.scale_rounds, options.seconds
            ),
        }
    finally:
        os.remove(image)
