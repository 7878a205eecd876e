"""The best settings of peers: each value that ``peers.toml`` lists is tried in the place of the one that is set, and compared in turn."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from benchmarks.driver import EngineProcess
from benchmarks.intervals import ratio
from benchmarks.peers import PEERS
from benchmarks.workload import NEW_TOKENS, PROMPT_TOKENS, Workload

_BATCHES = (1, 8, 32)
Speeds = dict[str, list[float]]


def search(workload: Workload, rounds: int) -> None:
    """Print what each value is worth against the settings as they are, for each peer; the first round warms up."""
    for module, peer in tomllib.loads(PEERS.read_text(encoding="utf-8")).items():
        kept = peer["settings"]
        print(f"{module}, against {json.dumps(kept)}:", flush=True)
        for key, values in peer["tried"].items():
            for value in values:
                if kept.get(key, {}) != value:
                    print(f"  {key} = {json.dumps(value)}: {_worth(workload, module, kept, {**kept, key: value}, rounds)}", flush=True)


def _worth(workload: Workload, module: str, kept: dict[str, Any], tried: dict[str, Any], rounds: int) -> str:
    processes = [EngineProcess(f"benchmarks.engines.{module}", options, workload) for options in (kept, tried)]
    speeds: tuple[Speeds, Speeds] = ({}, {})
    try:
        for number in range(rounds + 1):
            for place in (0, 1) if number % 2 else (1, 0):
                for name, speed in _speeds(processes[place], workload, number).items():
                    if number:
                        speeds[place].setdefault(name, []).append(speed)
    finally:
        for process in processes:
            process.close()
    return ", ".join(f"{name} {ratio(speeds[1][name], speeds[0][name]).shown('.2f')} x" for name in speeds[0])


def _speeds(process: EngineProcess, workload: Workload, number: int) -> dict[str, float]:
    found = {"prefill": PROMPT_TOKENS / process.ask("prefill", prompt=workload.prompts[number % len(workload.prompts)])}
    for batch in _BATCHES:
        found[f"batch {batch}"] = batch * NEW_TOKENS / process.ask("decode", prompts=workload.prompts[:batch])
    return found
