"""``make simulate``: every installed scheduler under a million requests of 10,000 tenants, without a model.

The scheduling code is core's own; only the engine is modelled, and the clock is virtual. Prints tables, writes them with plots and all
figures into a folder, and ends with 1 where a decision takes too long or ``fair`` lets a flood through.

With ``--seats`` it is the router that chooses among replicas, up to 10,000 of them, in place of the schedulers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from simulation import report, seats
from simulation.run import Server, decisions, run
from simulation.traffic import traffic

#: Name -> load of all but the flood, load of the flood, share of ``--requests``; loads are parts of what the modelled server can serve.
SCENARIOS = {"busy": (0.9, 0.0, 1.0), "quiet": (0.7, 0.0, 0.1), "flood": (0.7, 2.0, 0.1)}
#: Tokens of prompts and outputs on average.
PROMPT, OUTPUT = 120.0, 16.0
#: Milliseconds a decision may take with 256 running and 10,000 waiting, and how much a flood may add to others' p95 TTFT under fair.
DECISION_MS, FLOOD_FACTOR = 2.0, 1.5
#: Replicas that the router chooses among, their load, and milliseconds that all but one of a thousand choices may take.
SEATS, SEATS_LOAD, ROUTE_MS = (10, 100, 1000, 10_000), 0.7, 1.0
#: Decisions that are timed, each policy.
DECISIONS = 3000


def simulate(job: tuple[str, str, int, int, int]) -> tuple[str, str, dict[str, Any]]:
    """One policy in one scenario."""
    scenario, name, requests, tenants, seed = job
    load, flood, share = SCENARIOS[scenario]
    server = Server()
    rate = server.capacity(PROMPT, OUTPUT)
    columns = traffic(
        requests=max(300, int(requests * share)),
        tenants=tenants,
        rate=load * rate,
        flood_rate=flood * rate,
        mean_prompt=PROMPT,
        mean_output=OUTPUT,
        seed=seed,
    )
    return scenario, name, report.figures(columns, run(name, columns, server))


def decide(job: tuple[str, int]) -> tuple[str, int, dict[str, float]]:
    """How long one policy's decisions take, in milliseconds; ``collector`` is the longest that garbage collection held one up."""
    name, tenants = job
    own, collector = decisions(name, Server(), waiting=10_000, tenants=tenants, steps=DECISIONS).T * 1e3
    p50, p99, p999 = (float(np.quantile(own, q)) for q in (0.5, 0.99, 0.999))
    return name, tenants, {"p50": p50, "p99": p99, "p99.9": p999, "max": float(own.max()), "collector": float(collector.max())}


def main() -> int:
    names = sorted(entry.name for entry in entry_points(group="llmasos.schedulers"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests of the busy scenario; a tenth in the others")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="+", choices=names, default=names)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("bench-results/simulate"))
    parser.add_argument("--seats", action="store_true", help="the router among replicas, in place of the schedulers")
    arguments = parser.parse_args()
    console = Console()
    if arguments.seats:
        return route(console, arguments)
    started = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    size = (arguments.requests, arguments.tenants, arguments.seed)
    jobs = [(scenario, name, *size) for scenario in SCENARIOS for name in arguments.policies]
    results: dict[str, dict[str, dict[str, Any]]] = {scenario: {name: {} for name in arguments.policies} for scenario in SCENARIOS}
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for scenario, name, row in pool.imap_unordered(simulate, jobs):
            results[scenario][name] = row
            console.print(f"{time.monotonic() - started:6.0f} s  {scenario}, {name}: {row['requests']} requests", highlight=False)
        timed: dict[str, dict[int, dict[str, float]]] = {name: {} for name in arguments.policies}
        for name, tenants, spent in pool.imap(decide, [(name, tenants) for name in arguments.policies for tenants in (1, 10_000)]):
            timed[name][tenants] = spent
    text, failed = summary(results, timed)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    (arguments.output / "results.json").write_text(json.dumps({"scenarios": results, "decisions_ms": timed}, indent=1))
    (arguments.output / "tables.md").write_text(text + "\n")
    report.plots(results, arguments.output)
    console.print(f"Tables, plots and all figures are in {arguments.output}.")
    return 1 if failed else 0


def route(console: Console, arguments: argparse.Namespace) -> int:
    """The router among more and more seats; a million requests among the most."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in SEATS:
        requests = arguments.requests if count == SEATS[-1] else max(1000, arguments.requests // 10)
        rows.append(seats.row(count, seats.route(seats=count, requests=requests, load=SEATS_LOAD, seed=arguments.seed)))
        console.print(f"{count} seats: {requests} requests", highlight=False)
    text = seats.table(rows)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    (arguments.output / "seats.json").write_text(json.dumps(rows, indent=1))
    (arguments.output / "seats.md").write_text(text + "\n")
    return 1 if any(each["decision_p999_ms"] >= ROUTE_MS for each in rows) else 0


def summary(results: dict[str, dict[str, dict[str, Any]]], timed: dict[str, dict[int, dict[str, float]]]) -> tuple[str, bool]:
    """The tables, and whether a bound was missed."""
    lines, failed = [], False
    for scenario, rows in results.items():
        load, flood, _ = SCENARIOS[scenario]
        lines += [f"## {scenario}: load {load:g}, flood {flood:g}", "", report.table(rows), ""]
    lines += ["## one decision with 256 running and 10,000 waiting, ms of processor time", ""]
    lines += ["| policy | tenants | p50 | p99 | p99.9 | max | garbage collector | |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, of in timed.items():
        for tenants, spent in of.items():
            within = spent["p99.9"] < DECISION_MS
            failed |= not within
            columns = " | ".join(f"{spent[key]:.2f}" for key in ("p50", "p99", "p99.9", "max", "collector"))
            lines.append(f"| {name} | {tenants} | {columns} | {'' if within else f'over {DECISION_MS:g}'} |")
    lines += [
        "",
        "## what one tenant's flood does to the others' p95 TTFT",
        "",
        "| policy | without | with | factor | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in results["flood"]:
        before, after = results["quiet"][name]["ttft_p95"], results["flood"][name]["ttft_p95"]
        over = name == "fair" and after > FLOOD_FACTOR * before
        failed |= over
        lines.append(f"| {name} | {before:.3f} s | {after:.3f} s | {after / before:.2f} | {f'over {FLOOD_FACTOR:g}' if over else ''} |")
    return "\n".join(lines), failed


if __name__ == "__main__":
    sys.exit(main())
