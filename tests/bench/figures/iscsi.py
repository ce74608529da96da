"""The iSCSI target's rows, what is wanted of them, and the report."""

import os

from .report import grid, host, number

SIZES = {"4 KiB": 4096, "128 KiB": 131072, "1 MiB": 1 << 20}
SHAPES = {"QD1": (1, 1), "QD8": (8, 1), "QD32": (32, 1), "4 × QD8": (8, 4)}  # depth, sessions
MOST_DIGEST_COST = 0.15
LEAST_GAIN = 1.5  # of four sessions over one, where that one leaves room for it
IDLE_CPU = 0.01  # of a core, with all sessions


def words(size, op, shape, *more):
    depth, sessions = SHAPES[shape]
    return ["--op", op, "--block", str(SIZES[size]), "--depth", str(depth),
            "--sessions", str(sessions), *more]


class Case:
    """One row: `load` is the client program; `media` what it runs on."""

    def __init__(self, size, op, shape, load="iscsi_load", digest=None):
        self.size, self.op, self.shape, self.load, self.digest = size, op, shape, load, digest
        self.name = f"{size} {op} {shape}" + (f", {digest} digests" if digest else "")
        more = ["--digest"] if load == "iscsi_load" else ["--digest", digest]
        self.words = words(size, op, shape, *(more if digest else []))
        self.unit = "iops" if size == "4 KiB" else "mb_s"

    def goal(self):
        """The least ratio to tgtd; None: any."""
        if self.size == "4 KiB":
            return {"QD1": 1.3, "QD8": None}.get(self.shape, 2.0)
        return 2.0 if self.op == "write" else 1.5


MATRIX = [Case(size, op, shape) for size in SIZES for op in ("read", "write") for shape in SHAPES]
HEADER_DIGESTS = [Case("4 KiB", op, "QD32", digest="header") for op in ("read", "write")]
# With a client that takes little of its core, and has data digests.
DIGESTS = [Case(size, op, shape, "iscsi_digest_load", digest)
           for size, shape in (("4 KiB", "QD32"), ("128 KiB", "QD8"), ("1 MiB", "QD8"))
           for op in ("read", "write") for digest in ("none", "both")]
SESSIONS = [Case("4 KiB", op, shape, "iscsi_digest_load", "none")
            for op in ("read", "write") for shape in ("QD8", "4 × QD8")]
ALL = [*MATRIX, *HEADER_DIGESTS, *DIGESTS, *SESSIONS]


def rows(results, medium, cases):
    lines = []
    for case in cases:
        of = results.get((medium, case.name))
        if of is None:
            continue
        ours, theirs = of["blockloom"], of["tgtd"]
        ratio, goal = ours[case.unit] / theirs[case.unit], case.goal()
        if case.digest:
            goal = None
        lines.append([
            case.name, number(ours[case.unit]), number(theirs[case.unit]), f"{ratio:.2f}",
            number(goal, 1), "" if goal is None else "ok" if ratio >= goal else "BELOW",
            number(ours["p99_us"]), number(theirs["p99_us"]),
            number(ours["server_cpu_us"], 1), number(theirs["server_cpu_us"], 1),
            f"{ours['client_cpu']:.2f}"])
    return lines


HEAD = ["IOPS (4 KiB), MB/s", "Blockloom", "tgtd", "ratio", "goal", "", "p99 us", "tgtd",
        "CPU us/op", "tgtd", "client"]


def judge_digests(results, checks):
    """What header digests cost the client of the other rows; and both of them the server, whose
    client of our own pays as much itself, on the same processors."""
    for case in HEADER_DIGESTS:
        off = results.get(("tmpfs", f"{case.size} {case.op} {case.shape}"))
        on = results.get(("tmpfs", case.name))
        if on and off:
            cost = 1 - on["blockloom"]["iops"] / off["blockloom"]["iops"]
            checks.add(cost < MOST_DIGEST_COST,
                       f"{case.name}: cost {cost:.0%}, less than {MOST_DIGEST_COST:.0%} wanted")
    for case in DIGESTS:
        off = results.get(("tmpfs", case.name.replace("both", "none")))
        on = results.get(("tmpfs", case.name))
        if case.digest == "both" and on and off:
            slower = 1 - on["blockloom"][case.unit] / off["blockloom"][case.unit]
            cost = on["blockloom"]["server_cpu_us"] / off["blockloom"]["server_cpu_us"] - 1
            checks.add(cost < MOST_DIGEST_COST,
                       f"{case.name}: {cost:.0%} more of the server's CPU, less than"
                       f" {MOST_DIGEST_COST:.0%} wanted; server and client together are"
                       f" {slower:.0%} slower")


def judge_sessions(results, checks):
    for op in ("read", "write"):
        one, four = (results.get(("tmpfs", f"4 KiB {op} {shape}, none digests"))
                     for shape in ("QD8", "4 × QD8"))
        if not one or not four:
            continue
        ours = one["blockloom"]
        gain = four["blockloom"]["iops"] / ours["iops"]
        busy = ours["server_cpu_us"] * ours["iops"] / 1e6 + ours["client_cpu"]
        told = (f"4 KiB {op}: four sessions give {gain:.2f} times one, {LEAST_GAIN} wanted; one and"
                f" its client take {busy:.2f} of {os.cpu_count()} processors")
        if gain < LEAST_GAIN and busy > os.cpu_count() / LEAST_GAIN:
            checks.skip(f"{told}: no room")
        else:
            checks.add(gain >= LEAST_GAIN, told)


def judge(results, quiet, checks):
    """The goals, one by one."""
    for (medium, name), of in results.items():
        case = next(c for c in ALL if c.name == name)
        if case.digest or case.goal() is None:
            continue
        ratio = of["blockloom"][case.unit] / of["tgtd"][case.unit]
        checks.add(ratio >= case.goal(),
                   f"{name}, {medium}: {ratio:.2f} of tgtd, {case.goal()} wanted")
    judge_digests(results, checks)
    judge_sessions(results, checks)
    ours = quiet.get("blockloom")
    if ours:
        checks.add(ours["cpu"] < IDLE_CPU,
                   f"{ours['sessions']} idle sessions take {ours['cpu']:.2%} of a core")


def connections(results, markdown):
    """What several connections of one session could give: the same commands over more threads."""
    lines = []
    for op in ("read", "write"):
        one, four = (results.get(("tmpfs", f"4 KiB {op} {shape}, none digests"))
                     for shape in ("QD32", "4 × QD8"))
        if one and four:
            for who in ("blockloom", "tgtd"):
                lines.append([f"4 KiB {op}, {who}", number(one[who]["iops"]),
                              number(four[who]["iops"]),
                              f"{four[who]['iops'] / one[who]['iops']:.2f}",
                              number(one[who]["server_cpu_us"], 1),
                              number(four[who]["server_cpu_us"], 1)])
    head = ["32 commands at once", "1 connection", "4", "ratio", "CPU us/op", "4"]
    return grid(head, lines, markdown)


def render(facts, results, quiet, checks, markdown):
    lines = ["# The iSCSI target's figures", "",
             "Written by `tests/bench/iscsi`. Only ratios within one run count."]

    def section(title, body):
        lines.extend(["", f"## {title}" if markdown else title.upper(), "", *body])

    section("Machine", host(facts, markdown))
    for medium in dict.fromkeys(medium for medium, _ in results):
        section(f"Beside tgtd, on {medium}", grid(HEAD, rows(results, medium, MATRIX), markdown))
    if any(medium == "tmpfs" for medium, _ in results):
        section("Header digests", grid(HEAD, rows(results, "tmpfs", HEADER_DIGESTS), markdown))
        section("Header and data digests; a client of our own",
                grid(HEAD, rows(results, "tmpfs", DIGESTS), markdown))
        section("Sessions; the same client", grid(HEAD, rows(results, "tmpfs", SESSIONS), markdown))
        section("Several connections for one session's commands", connections(results, markdown))
    if quiet:
        section("Idle sessions", grid(
            ["", "sessions", "KiB each", "% of a core", "RSS MiB"],
            [[who, number(q["sessions"]), number(q["bytes_a_session"] / 1024, 1), f"{q['cpu']:.2%}",
              number(q["rss"] / (1 << 20), 1)] for who, q in quiet.items() if q], markdown))
    told = [f"{state}  {text}" for state, text in checks.lines]
    section("Verdicts", [f"- {line}" for line in told] if markdown else told)
    return "\n".join(lines) + "\n"
