"""``make many-models ARGS="--seconds 120"``: three models in memory for two, hit in random order by many threads.

Every answer must equal that of the model alone, no byte may be committed twice, and every eviction must be necessary: of an unused model,
    and
of no more models than the missing memory requires. Exits with 1 if any check fails.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

import llmasos
from llmasos.compose.process import ProcessResources
from llmasos_config import Config
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_residency.decisions import Decisions
from llmasos_residency.memory import Budget
from llmasos_residency.residency import Residency
from llmasos_residency.tracked_model import TrackedModel

NAMES = "abc"
LOADER = {"use": "onnx", "precision": "fp32"}  # exact, so that answers can be compared
PROMPTS = ("otters", "a river in the valley", "one two three four five six seven eight nine ten " * 2, "z" * 120)
GREEDY = {"max_new_tokens": 6}

#: Model and prompt -> text.
Answers = Mapping[tuple[str, str], str]


class WatchedDecisions(Decisions):
    """Checks every eviction when it is decided.

    Attributes:
        made: count of decisions.
        faults: wrong ones, as sentences.
    """

    def __init__(self, watched: Decisions) -> None:
        super().__init__(watched.memory, watched.clock, watched.models, watched.queue)
        self.made = 0
        self.faults: list[str] = []

    def victims(self, budgets: Iterable[Budget], needed: float, sparing: TrackedModel | None) -> list[TrackedModel]:
        budgets = list(budgets)
        chosen = super().victims(budgets, needed, sparing)
        self.made += 1
        missing = self.memory.missing(budgets, needed)
        freed = sum(model.account.bytes for model in chosen)
        for model in chosen:
            if model.leases or model.pinned or model.state != "loaded" or model is sparing:
                self.faults.append(f"{model.name} was to go though it is {model.state} with {model.leases} leases")
            if freed - model.account.bytes >= missing:
                self.faults.append(f"{model.name} was to go needlessly: {missing:.0f} bytes were missing, and all free {freed}")
        if chosen and freed < missing:
            self.faults.append(f"{freed} bytes were to be freed of the {missing:.0f} that were missing")
        return chosen


class WatchedResidency(Residency):
    """Checks every eviction at the moment of its decision.

    Attributes:
        evictions: so far, each the names of the evicted models.
        watched: checks the decisions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.evictions: list[tuple[str, ...]] = []
        self._decisions = self.watched = WatchedDecisions(self._decisions)

    @property
    def faults(self) -> list[str]:
        """Wrong decisions, as sentences."""
        return self.watched.faults

    def _evict(self, waiter: Any, needed: float) -> list[TrackedModel]:
        victims = super()._evict(waiter, needed)
        self.evictions.append(tuple(victim.name for victim in victims))
        return victims


@attrs.define
class Outcome:
    """The result of a run. ``faults`` are sentences; ``unlike`` are answers that differ from those of the model alone."""

    requests: int = 0
    faults: list[str] = attrs.field(factory=list)
    unlike: list[tuple[str, str, str]] = attrs.field(factory=list)
    most_used: float = 0.0

    @property
    def well(self) -> bool:
        return not self.faults and not self.unlike


def answers_alone(sources: Mapping[str, str]) -> tuple[Answers, dict[str, Any]]:
    """Each model's answers without concurrent requests, and the facts of the largest."""
    found, facts = {}, {}
    for name, source in sources.items():
        with llmasos.load_model(source, loader=LOADER) as model:
            found |= {(name, prompt): model.generate_text(prompt, **GREEDY) for prompt in PROMPTS}
            facts = max(facts, model.describe(), key=lambda each: each.get("weight_bytes", 0))
    return found, facts


def pipeline_for_two(sources: Mapping[str, str], facts: Mapping[str, Any], tokens: int) -> llmasos.Pipeline:
    """The models, with memory for two of them with KV for ``tokens`` each."""
    process = ProcessResources(WatchedResidency())
    each = facts["weight_bytes"] + tokens * facts["kv_bytes_per_token"]
    config = {
        "models": {name: {"source": source} for name, source in sources.items()},
        "loader": LOADER,
        "resources": {"memory": 2 * each, "threads": 1},
    }
    return llmasos.Pipeline(Config.from_mapping(config), process=process)


def hit(pipeline: llmasos.Pipeline, answers: Answers, *, threads: int = 8, go_on: Callable[[int], bool], seed: int = 0) -> Outcome:
    """Ask random models from many threads, each for as long as ``go_on`` says of the number of its requests so far."""
    outcome, lock = Outcome(), threading.Lock()

    def ask(draw: random.Random) -> None:
        asked = 0
        while go_on(asked):
            name, prompt = draw.choice(NAMES), draw.choice(PROMPTS)
            text = pipeline.models[name].generate_text(prompt, **GREEDY)
            asked += 1
            with lock:
                if text != answers[name, prompt]:
                    outcome.unlike.append((name, prompt, text))
                _audit(pipeline, outcome)
        with lock:
            outcome.requests += asked

    def guarded(draw: random.Random) -> None:
        try:
            ask(draw)
        except Exception as error:
            outcome.faults.append(f"a request failed: {error!r}")

    workers = [threading.Thread(target=guarded, args=(random.Random(seed + number),), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outcome.faults += pipeline._process.residency.faults
    return outcome


def _audit(pipeline: llmasos.Pipeline, outcome: Outcome) -> None:
    """Compare the memory counters with the leases at this moment."""
    residency, budget = pipeline._process.residency, pipeline._composer.budget
    with residency.memory.lock:
        held = sum(model.account.bytes for model in residency.models() if budget in model.account.budgets)
        outcome.most_used = max(outcome.most_used, held / budget.most)
        if not budget.used == held <= budget.most:
            outcome.faults.append(f"{held} bytes are held, {budget.used} counted, {budget.most:.0f} allowed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--source", nargs=3, metavar="MODEL", help="three model references; left out: tiny models made for it")
    parser.add_argument("--tokens", type=int, default=256, help="KV that fits beside the weights of each of two models")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        sources = dict(zip(NAMES, arguments.source or _tiny_models(Path(folder)), strict=True))
        answers, facts = answers_alone(sources)
        with pipeline_for_two(sources, facts, arguments.tokens) as pipeline:
            end = time.monotonic() + arguments.seconds
            outcome = hit(pipeline, answers, threads=arguments.threads, go_on=lambda _: time.monotonic() < end, seed=arguments.seed)
            usage = pipeline.usage()
            evictions = pipeline._process.residency.evictions
    console.print(f"{outcome.requests} requests by {arguments.threads} threads in {arguments.seconds:g} s, {len(evictions)} evictions.")
    for name, model in usage.items():
        console.print(f"{name}: {model['loads']} loads, {model['evictions']} evictions, {model['state']}")
    console.print(f"At most {outcome.most_used:.1%} of the budget was committed; {len(outcome.unlike)} answers differ.")
    for fault in sorted(set(outcome.faults)):
        console.print(f"FAULT: {fault}")
    return 0 if outcome.well else 1


def _tiny_models(folder: Path) -> list[str]:
    for seed, name in enumerate(NAMES):
        tiny_checkpoint("llama", seed=seed, folder=folder / name, hidden_size=128, intermediate_size=512)
    return [str(folder / name) for name in NAMES]


if __name__ == "__main__":
    sys.exit(main())
