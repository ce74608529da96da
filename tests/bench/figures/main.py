"""The command: which parts run, how long, and where the results go."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from types import SimpleNamespace

from . import engine, report, scale, swaps, throughput
from .procs import BenchError, Process
from .report import Checks
from .rows import ROWS
from .servers import plugin_path

# seconds: of a sample. Short samples and many rounds tell more than few long ones: what differs
# between two runs is mostly where the scheduler put the threads. rounds, most_rounds: of the servers
# with a target and what they are compared to; the first always, up to the second while a ratio's
# standard error is over `uncertainty`. other_rounds: of the other servers.
MODES = {
    "full": {
        "seconds": 0.8,
        "rounds": 7,
        "most_rounds": 15,
        "uncertainty": 0.02,
        "other_rounds": 2,
        "size": 1 << 30,
        "swaps": 1000,
        "swap_seconds": 30,
        "devices": 1000,
        "segments": 10000,
        "scale_rounds": 15,
    },
    "quick": {
        "seconds": 0.5,
        "rounds": 5,
        "most_rounds": 5,
        "uncertainty": 0.02,
        "other_rounds": 1,
        "size": 512 << 20,
        "swaps": 1000,
        "swap_seconds": 15,
        "devices": 1000,
        "segments": 10000,
        "scale_rounds": 7,
    },
}
PARTS = ("throughput", "swaps", "scale", "engine")


def arguments(argv):
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    p = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures Blockloom beside nbdkit, qemu-nbd and nbd-server. About 40 minutes,"
        " or 5 with --quick; leave the machine alone meanwhile. Only ratios within one run count.",
    )
    p.add_argument("build", nargs="?", default="build", metavar="BUILDDIR")
    p.add_argument("--quick", action="store_true", help="Unix socket and tmpfs only, shorter")
    p.add_argument("--parts", default=",".join(PARTS), help="of: %(default)s")
    p.add_argument("--rows", default="", help=f"of: {','.join(r.name for r in ROWS)}")
    p.add_argument("--servers", default="", help="names as in the report, comma-separated")
    p.add_argument("--transports", help="of: unix,tcp")
    p.add_argument("--backings", help="of: tmpfs,disk")
    p.add_argument("--seconds", type=float, help="of one sample")
    p.add_argument("--rounds", type=int)
    p.add_argument("--size-mib", type=int, help="of the image")
    p.add_argument("--disk", help="a folder on a disk; default: BUILDDIR/bench")
    p.add_argument("--json", help="default: BUILDDIR/bench/DATE.json")
    p.add_argument("--markdown", metavar="FILE", help="write the report as markdown, too")
    args = p.parse_args(argv)
    if not os.path.isdir(args.build) and os.path.isdir(os.path.join(top, args.build)):
        args.build = os.path.join(top, args.build)
    args.build = os.path.abspath(args.build)
    return args


def words(text, allowed, what):
    chosen = [w.strip() for w in text.split(",") if w.strip()]
    for w in chosen:
        if w not in allowed:
            raise BenchError(f"{what} '{w}': expected one of {', '.join(allowed)}")
    return chosen


def options(args):
    mode = dict(MODES["quick" if args.quick else "full"])
    if args.seconds:
        mode["seconds"] = args.seconds
    if args.rounds:
        mode["rounds"] = mode["most_rounds"] = args.rounds
        mode["other_rounds"] = min(mode["other_rounds"], args.rounds)
    if args.size_mib:
        mode["size"] = args.size_mib << 20
    return SimpleNamespace(**mode)


def _first_line(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "not installed"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "?"


def host_facts(args, opts):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if "model name" in line), "?")
    top = os.path.dirname(os.path.abspath(__file__))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _first_line(["git", "-C", top, "describe", "--always", "--dirty"]),
        "processor": f"{os.cpu_count()} × {model}, shared by client and server",
        "kernel": platform.release(),
        "load before": " ".join(f"{x:.2f}" for x in os.getloadavg()),
        "nbdkit": _first_line(["nbdkit", "--version"]),
        "qemu-nbd": _first_line(["qemu-nbd", "--version"]) + ", aio=io_uring, cache=writeback",
        "nbd-server": _first_line(["nbd-server", "-V"]).removeprefix("This is "),
        "fio": _first_line(["fio", "--version"]),
        "samples": f"{opts.seconds} s each, {opts.rounds} to {opts.most_rounds} rounds,"
        f" {opts.other_rounds} of servers without a target",
        "image": f"{opts.size >> 20} MiB of random bytes, in the page cache",
        "mode": "quick" if args.quick else "full",
    }


def _memory_available():
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))


def throughput_part(args, opts, folder, disk, checks):
    default_backings = "tmpfs" if args.quick else "tmpfs,disk"
    default_transports = "unix" if args.quick else "unix,tcp"
    plan = throughput.Plan(
        args.build,
        folder,
        disk,
        words(args.transports or default_transports, ("unix", "tcp"), "transport"),
        words(args.backings or default_backings, ("tmpfs", "disk"), "backing"),
        words(args.rows, [r.name for r in ROWS], "row"),
        words(args.servers, list(throughput.kinds(args.build)), "server"),
        opts,
    )
    need = 5 * opts.size  # two copies on tmpfs, and three servers that hold one in memory
    if _memory_available() < need:
        raise BenchError(f"{need >> 20} MiB of free memory needed; try a smaller --size-mib")
    result = throughput.run(plan)
    for error in result["errors"]:
        checks.add(False, f"throughput: {error}")
    for name, reason in result["skipped"].items():
        checks.skip(f"{name}: {reason}")
    result["verdicts"] = throughput.verdicts(result["rows"])
    result["noise"] = throughput.noise(result["rows"])
    for name, v in result["verdicts"].items():
        for row, ratio in v["below"].items():
            checks.add(False, f"{name}, {row}: {ratio:.2f} of nbdkit file, {v['least']} wanted")
        good = v["rows"] - len(v["below"])
        told = f"{name}: at least {v['least']} in {good} of {v['rows']} rows"
        checks.add(good == v["rows"], told)
        checks.add(v["median"] >= 1, f"{name}: median row {v['median']:.3f} of nbdkit file")
    return result


def swaps_part(plugin, opts, folder, checks):
    throughput.say(f"swaps: {opts.swaps} under load, {opts.swap_seconds} s")
    result = swaps.run(plugin, folder, opts.swaps, opts.swap_seconds, 256 << 20)
    verified = result["fio"]["verified_blocks"]
    checks.add(
        True, f"swap under load: {opts.swaps} swaps, {verified} blocks verified, no error"
    )
    return result


def scale_part(plugin, opts, folder, checks):
    throughput.say(f"scale: {opts.segments} segments, {opts.devices} devices")
    result = scale.run(plugin, folder, opts)
    for part, what in (("segments", "segments in one table"), ("devices", "devices")):
        for row, r in result[part]["rows"].items():
            told = f"{result[part][part]} {what}, {row}: {r['ratio']:.3f} of one, 0.95 wanted"
            checks.add(r["ratio"] >= 0.95, told)
    return result


def render(results, checks, markdown):
    lines = []

    def section(title, body):
        lines.extend(["", f"## {title}" if markdown else title.upper(), "", *body])

    if markdown:
        lines.append("# Figures")
        lines += ["", "Written by `tests/bench/run`. Only ratios within one run count."]
    section("Machine", report.host(results["host"], markdown))
    if results.get("throughput"):
        part = results["throughput"]
        section("Ratio to nbdkit file", report.overview(part, markdown))
        if part["noise"]:
            low, middle, high = part["noise"]
            lines += [
                "",
                f"nbdkit file, started twice, against itself: {low:.2f} to {high:.2f}, median"
                f" {middle:.2f}. This is the noise of a row.",
            ]
        section("Throughput", report.throughput(part, markdown))
    if results.get("swaps"):
        section("Swap under load", report.swaps(results["swaps"], markdown))
    if results.get("scale"):
        section("Scale", report.scale(results["scale"], markdown))
    if results.get("engine"):
        section("The engine alone", report.engine(results["engine"], markdown))
    verdict_lines = [f"{state}  {text}" for state, text in checks.lines]
    section("Verdicts", [f"- {x}" for x in verdict_lines] if markdown else verdict_lines)
    return "\n".join(lines) + "\n"


def _write(path, text):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def main(argv):
    args = arguments(argv)
    opts = options(args)
    checks = Checks()
    out = os.path.join(args.build, "bench")
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="blockloom-bench.", dir=shm)
    disk = None
    try:
        parts = words(args.parts, PARTS, "part")
        os.makedirs(args.disk or out, exist_ok=True)
        disk = tempfile.mkdtemp(prefix="disk.", dir=args.disk or out)
        results = {"host": host_facts(args, opts)}
        plugin = plugin_path(args.build)
        work = {
            "throughput": lambda: throughput_part(args, opts, folder, disk, checks),
            "swaps": lambda: swaps_part(plugin, opts, folder, checks),
            "scale": lambda: scale_part(plugin, opts, folder, checks),
            "engine": lambda: engine.run(args.build, args.quick, checks),
        }
        for part in parts:
            if part in ("swaps", "scale") and not os.path.exists(plugin):
                checks.skip(f"{part}: {plugin} is not built")
                continue
            try:
                results[part] = work[part]()
            except BenchError as e:
                checks.add(False, f"{part}: {e}")
        results["checks"] = [{"state": s, "text": t} for s, t in checks.lines]
        _write(
            args.json or os.path.join(out, time.strftime("%Y-%m-%d-%H%M%S.json")),
            json.dumps(results, indent=1) + "\n",
        )
        print(render(results, checks, markdown=False))
        if args.markdown:
            _write(args.markdown, render(results, checks, markdown=True))
        print(checks.summary())
        return 1 if checks.count("FAIL") else 0
    except (BenchError, KeyboardInterrupt) as e:
        print(f"tests/bench/run: {e or 'interrupted'}")
        print("0 passed, 1 failed, 0 skipped")
        return 2
    finally:
        Process.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
        if disk:
            shutil.rmtree(disk, ignore_errors=True)
