"""The engine alone, without nbdkit or sockets: runs engine_bench (meson option `bench`)."""

import json
import os

from .procs import run as run_tool


def run(build, quick, checks):
    program = os.path.join(build, "tests/bench/engine_bench")
    if not os.path.exists(program):
        checks.skip("engine alone: engine_bench is not built (meson configure -Dbench=true)")
        return None
    argv = [
        program,
        "--benchmark_format=json",
        f"--benchmark_min_time={0.1 if quick else 0.3}",
        "--benchmark_repetitions=5",
        "--benchmark_report_aggregates_only=true",
        "--benchmark_enable_random_interleaving=true",
    ]
    found = json.loads(run_tool(argv, 600))["benchmarks"]
    medians = [b for b in found if b.get("aggregate_name") == "median"]
    medians.sort(key=lambda b: (b["family_index"], b["per_family_instance_index"]))
    return {
        "benchmarks": [
            {
                "name": b["run_name"].split("/")[0],
                "threads": b["threads"],
                "real_ns": b["real_time"],
                "cpu_ns": b["cpu_time"],
            }
            for b in medians
        ]
    }
