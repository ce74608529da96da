"""The results for people: aligned tables for the terminal, or markdown."""

from .servers import CONTROL, REFERENCE
from .throughput import TARGETS


class Checks:
    """What passed, failed and was skipped, each said in one line."""

    def __init__(self):
        self.lines = []

    def add(self, ok, text):
        self.lines.append(("pass" if ok else "FAIL", text))

    def skip(self, text):
        self.lines.append(("skip", text))

    def count(self, state):
        return sum(1 for s, _ in self.lines if s == state)

    def summary(self):
        return (
            f"{self.count('pass')} passed, {self.count('FAIL')} failed, "
            f"{self.count('skip')} skipped"
        )


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def grid(head, rows, markdown=False):
    """Columns: the first to the left, the others to the right."""
    if markdown:
        lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        return lines + ["| " + " | ".join(row) + " |" for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in [head, *rows]
    ]


def _verdict(name, ratio):
    if name not in TARGETS or ratio is None:
        return ""
    return "ok" if ratio >= TARGETS[name] else "BELOW"


def throughput(result, markdown=False):
    lines = []
    for r in result["rows"]:
        cpu = f"CPU us/{r['per']}"
        head = ["server", r["unit"], "p99 us", cpu, "RSS MiB", "PSS MiB", "ratio", "±", ""]
        title = f"{r['row']}, {r['transport']} socket, backing on {r['backing']}"
        lines += ["", f"### {title}" if markdown else title]
        lines += [""] if markdown else []
        rows = []
        for name, s in r["servers"].items():
            ratio = s["ratio"] if name != REFERENCE else None
            rows.append(
                [
                    name,
                    number(s["value"]),
                    number(s["p99_us"]),
                    number(s["cpu_us"], 1),
                    number(s["rss_kib"] and s["rss_kib"] / 1024, 1),
                    number(s["pss_kib"] and s["pss_kib"] / 1024, 1),
                    number(ratio, 2),
                    number(s["uncertainty"] if ratio else None, 2),
                    _verdict(name, ratio),
                ]
            )
        lines += grid(head, rows, markdown)
    return lines


def overview(result, markdown=False):
    """One line a row: the ratios to the reference."""
    names = [
        n
        for n in dict.fromkeys(n for r in result["rows"] for n in r["servers"])
        if n != REFERENCE
    ]
    head = ["row", f"{REFERENCE}"] + [n if n != CONTROL else "(again)" for n in names]
    rows = []
    for r in result["rows"]:
        reference = r["servers"].get(REFERENCE)
        row = [
            f"{r['row']} {r['transport']} {r['backing']}",
            f"{number(reference and reference['value'])} {r['unit']}",
        ]
        row += [number(r["servers"].get(n, {}).get("ratio"), 2) for n in names]
        rows.append(row)
    return grid(head, rows, markdown)


def host(facts, markdown=False):
    rows = [[k, str(v)] for k, v in facts.items()]
    if markdown:
        return [f"- {k}: {v}" for k, v in rows]
    width = max(len(k) for k, _ in rows)
    return [f"{k.ljust(width)}  {v}" for k, v in rows]


def swaps(result, markdown=False):
    request = result["request_us"]

    def row(title, pair):
        median, p99 = pair["median"], pair["p99"]
        times = [number(x / request, 1) for x in (median, p99)]
        return [title, number(median, 1), number(p99, 1), *times]

    head = ["us", "median", "p99", "median / request", "p99 / request"]
    lines = grid(
        head,
        [
            row("pause, as resume tells it", result["pause_us"]),
            row("the whole resume call", result["resume_us"]),
            row("the load call before it", result["load_us"]),
            row("a client's longest request in a swap", result["seen_us"]),
            row("the same half way between swaps", result["calm_us"]),
        ],
        markdown,
    )
    with_swaps, without = result["fio"], result["fio_without_swaps"]
    lines += [
        "",
        f"{result['swaps']} swaps between {result['layouts']}; the median request takes"
        f" {request:.1f} us ({result['quiet_request_us']:.1f} without swaps).",
        "",
    ]
    head = ["fio, 4 KiB writes verified", "with swaps", "without"]
    names = ("writes_per_s", "write_p50_us", "write_p99_us", "write_max_us", "verified_blocks")
    titles = ("writes a second", "median us", "p99 us", "longest us", "blocks verified")
    rows = [[t, number(with_swaps[n]), number(without[n])] for t, n in zip(titles, names)]
    return lines + grid(head, rows, markdown)


def _one_and_many(part, markdown):
    head = ["", "one", "many", "ratio", "CPU us/op one", "CPU us/op many"]
    rows = [
        [
            name,
            number(r["one"]),
            number(r["many"]),
            number(r["ratio"], 3),
            number(r["one_cpu_us"], 1),
            number(r["many_cpu_us"], 1),
        ]
        for name, r in part["rows"].items()
    ]
    return grid(head, rows, markdown)


def scale(result, markdown=False):
    s, d = result["segments"], result["devices"]
    return [
        f"One table of {s['segments']} segments: the server starts in"
        f" {s['start_s'] * 1e3:.0f} ms ({s['start_one_s'] * 1e3:.0f} with one segment), a load"
        f" takes {s['load_s'] * 1e3:.0f} ms, {s['bytes_a_segment']:.0f} bytes of memory a segment.",
        "",
        *_one_and_many(s, markdown),
        "",
        f"{d['devices']} devices: created in {d['create_all_s']:.2f} s,"
        f" {d['create_us']:.0f} us each, {d['kib_a_device']:.1f} KiB of memory each,"
        f" removed in {d['remove_all_s']:.2f} s.",
        "",
        *_one_and_many(d, markdown),
    ]


def engine(result, markdown=False):
    head = ["Device::submit, 4 KiB", "threads", "ns/op", "CPU ns/op"]
    rows = [
        [b["name"], str(b["threads"]), number(b["real_ns"], 1), number(b["cpu_ns"], 1)]
        for b in result["benchmarks"]
    ]
    return grid(head, rows, markdown)
