"""The best settings of peers: each value that ``peers.toml`` lists is tried in the place of the one that is set, and compared in turn."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.driver import EngineEnded, EngineProcess
from benchmarks.intervals import ratio
from benchmarks.peers import PEERS
from benchmarks.workload import NEW_TOKENS, PROMPT_TOKENS, Workload

Speeds = dict[str, list[float]]


def search(workload: Workload, peers: Sequence[str], rounds: int, batches: Sequence[int]) -> None:
    """Print what each value is worth against the settings as they are, for the named peers, or for all; the first round warms up."""
    known = tomllib.loads(PEERS.read_text(encoding="utf-8"))
    for module in peers or known:
        kept = known[module]["settings"]
        print(f"{module}, against {json.dumps(kept)}:", flush=True)
        for key, value in others(known[module]):
            try:
                worth = _worth(workload, module, (kept, {**kept, key: value}), rounds, batches)
            except EngineEnded as error:  # a setting that it refuses on this machine
                worth = f"not measured. {error}"
            print(f"  {key} = {json.dumps(value)}: {worth}", flush=True)


def others(peer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each setting with each value that is listed for it and is not the one that is set."""
    for key, values in peer["tried"].items():
        yield from ((key, value) for value in values if peer["settings"].get(key, {}) != value)


def _worth(workload: Workload, module: str, settings: tuple[dict[str, Any], dict[str, Any]], rounds: int, batches: Sequence[int]) -> str:
    """The second settings' speeds over those of the first."""
    speeds: tuple[Speeds, Speeds] = ({}, {})
    with contextlib.ExitStack() as opened:
        processes = [
            opened.enter_context(contextlib.closing(EngineProcess(f"benchmarks.engines.{module}", options, workload)))
            for options in settings
        ]
        for number in range(rounds + 1):
            for place in (0, 1) if number % 2 else (1, 0):
                for name, speed in _speeds(processes[place], workload, number, batches).items():
                    if number:
                        speeds[place].setdefault(name, []).append(speed)
    return ", ".join(f"{name} {ratio(speeds[1][name], speeds[0][name]).shown('.2f')} x" for name in speeds[0])


def _speeds(process: EngineProcess, workload: Workload, number: int, batches: Sequence[int]) -> dict[str, float]:
    found = {"prefill": PROMPT_TOKENS / process.ask("prefill", prompt=workload.prompts[number % len(workload.prompts)])}
    for batch in batches:
        found[f"batch {batch}"] = batch * NEW_TOKENS / process.ask("decode", prompts=workload.prompts[:batch])
    return found
