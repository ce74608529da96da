"""Throughput, side by side: in every round each row goes to every server in turn, so that what the
machine does to one it does to all, and a ratio is taken within a round, never across. Rounds go on
for rows whose ratio is still uncertain, whichever way it leans."""

import os
import statistics
import sys

from .procs import BenchError
from .rows import ROWS, measure
from .servers import CONTROL, REFERENCE, Backing, kinds

TARGETS = {"blockloom linear": 0.95, "blockloom striped": 0.95}
MEASURED = (*TARGETS, REFERENCE, CONTROL)  # every round; the others in the first `other_rounds`
IN_MEMORY = ("blockloom mem:", "nbdkit memory")  # no backing file: once is enough


class Cell:
    """All samples of one row against one server."""

    def __init__(self):
        self.samples = {}  # by round

    def add(self, number, sample):
        self.samples[number] = sample

    def median(self, field):
        values = [getattr(s, field) for s in self.samples.values()]
        values = [v for v in values if v is not None]
        return statistics.median(values) if values else None


def round_ratios(cell, reference):
    """A ratio for each round that both have."""
    return [
        sample.value / reference.samples[number].value
        for number, sample in cell.samples.items()
        if number in reference.samples
    ]


def median_ratio(cell, reference):
    ratios = round_ratios(cell, reference)
    return statistics.median(ratios) if ratios else None


def uncertainty(cell, reference):
    """The standard error of median_ratio(), by the rounds' median deviation from it (which, for a
    normal distribution, is 1/1.4826 of the standard deviation; a median's error is 1.2533 that of a
    mean). None with fewer than three rounds."""
    ratios = round_ratios(cell, reference)
    if len(ratios) < 3:
        return None
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(r - middle) for r in ratios)
    return 1.2533 * 1.4826 * deviation / len(ratios) ** 0.5


class Plan:
    def __init__(self, build, folder, disk, transports, backings, rows, servers, options):
        self.build = build
        self.folder = folder  # on tmpfs
        self.disk = disk
        self.transports = transports
        self.backings = backings
        self.rows = [row for row in ROWS if not rows or row.name in rows]
        self.servers = servers
        self.options = options


def say(text):
    print(text, file=sys.stderr, flush=True)


def _start(plan, transport, backing, skipped):
    servers = []
    folder = os.path.join(plan.folder, f"{transport}-{backing.name}")
    os.makedirs(folder)
    for kind in kinds(plan.build).values():
        if plan.servers and kind.name not in plan.servers:
            continue
        if kind.name in IN_MEMORY and backing.name != plan.backings[0]:
            continue
        missing = kind.missing()
        if missing:
            skipped[kind.name] = missing
            continue
        servers.append(kind.start(folder, transport, backing))
    return servers


def _in_turn(servers, number):
    """Another first one each round, and every other round backwards: no server has always the
    same one before it."""
    turned = servers[number % len(servers) :] + servers[: number % len(servers)]
    return turned[::-1] if number % 2 else turned


def _uncertain(by_server, most):
    reference = by_server.get(REFERENCE)
    if reference is None:
        return False
    errors = [uncertainty(by_server[n], reference) for n in TARGETS if n in by_server]
    return any(e is not None and e > most for e in errors)


def _round(plan, row, servers, backing, number, by_server):
    told = []
    for server in _in_turn(servers, number):
        if row.writes or number == 0:
            backing.sync()
        seconds = plan.options.seconds
        sample = measure(row, server, seconds, backing.size, with_memory=number == 0)
        by_server.setdefault(server.name, Cell()).add(number, sample)
        told.append(f"{server.name} {sample.value:.0f}")
    say(f"  {row.name}, round {number + 1}: " + ", ".join(sorted(told)))


def _group(plan, transport, backing, cells, skipped):
    servers = _start(plan, transport, backing, skipped)
    measured = [s for s in servers if s.name in MEASURED]
    options = plan.options
    try:
        for number in range(options.most_rounds):
            for row in plan.rows:
                by_server = cells.setdefault((row.name, transport, backing.name), {})
                if number < options.rounds or _uncertain(by_server, options.uncertainty):
                    here = servers if number < options.other_rounds else measured
                    _round(plan, row, here, backing, number, by_server)
    finally:
        unclean = [s.name for s in servers if not s.process.stop()]
    if unclean:
        raise BenchError(f"not ended 10 s after SIGTERM: {', '.join(unclean)}")


def run(plan):
    """{"rows": […], "skipped": {server: reason}, "errors": [text]}. An error ends its group of rows
    (a transport and a backing); what was measured stays."""
    cells, skipped, errors = {}, {}, []
    for name in plan.backings:
        parent = plan.folder if name == "tmpfs" else plan.disk
        backing = Backing(name, os.path.join(parent, "backing"), plan.options.size)
        try:
            backing.create()
            for transport in plan.transports:
                say(f"throughput: {transport} socket, backing on {name}")
                try:
                    _group(plan, transport, backing, cells, skipped)
                except BenchError as e:
                    errors.append(f"{transport} socket, backing on {name}: {e}")
        finally:
            backing.remove()
    return {"rows": _results(plan, cells), "skipped": skipped, "errors": errors}


def _results(plan, cells):
    known = {row.name: row for row in plan.rows}
    results = []
    for (row, transport, backing), by_server in cells.items():
        if not by_server:
            continue
        reference = by_server.get(REFERENCE)
        servers = {}
        for name, cell in by_server.items():
            servers[name] = {
                "value": cell.median("value"),
                "p50_us": cell.median("p50_us"),
                "p99_us": cell.median("p99_us"),
                "cpu_us": cell.median("cpu_us"),
                "rss_kib": cell.median("rss_kib"),
                "pss_kib": cell.median("pss_kib"),
                "ratio": median_ratio(cell, reference) if reference else None,
                "uncertainty": uncertainty(cell, reference) if reference else None,
                "samples": [s.as_dict() for s in cell.samples.values()],
            }
        results.append(
            {
                "row": row,
                "transport": transport,
                "backing": backing,
                "unit": known[row].unit,
                "per": known[row].per,
                "servers": servers,
            }
        )
    return results


def verdicts(rows):
    """What the targets say of each of our servers, over all rows."""
    found = {}
    for name, least in TARGETS.items():
        ratios = {
            (r["row"], r["transport"], r["backing"]): r["servers"][name]["ratio"]
            for r in rows
            if name in r["servers"] and r["servers"][name]["ratio"] is not None
        }
        if not ratios:
            continue
        below = {" ".join(key): ratio for key, ratio in ratios.items() if ratio < least}
        found[name] = {
            "rows": len(ratios),
            "least": least,
            "below": below,
            "median": statistics.median(ratios.values()),
        }
    return found


def noise(rows):
    """How far the same server, started twice, is from itself: (lowest, median, highest) ratio."""
    ratios = [r["servers"][CONTROL]["ratio"] for r in rows if CONTROL in r["servers"]]
    ratios = [r for r in ratios if r is not None]
    return [min(ratios), statistics.median(ratios), max(ratios)] if ratios else None
