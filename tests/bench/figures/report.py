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
        head = ["server", r["unit"], "p99 us", cpu, "RSS MiB", "PSS MiB", "ratio", ""]
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
