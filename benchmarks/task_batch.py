"""A task over many rows: one by one, and as a batch, in turn with the same model.

python benchmarks/task_batch.py [--loader onnx] [--rows 200] [--rounds 3] [--clauses 1]

The longer the texts, the smaller the ratio: a single long text already uses the whole CPU. Both use the prefix cache for the prompt; every
round has new texts, which the prefix cache does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from llmasos.api.pipeline import Pipeline
from llmasos.cli.command_context import OpenedTask
from llmasos_command_batch.run import run_batch
from llmasos_config import Config

_LABELS = ["sports", "cooking", "technology", "politics"]
_WHO = ("The match", "Our team", "The soup", "A new phone", "The parliament", "The striker", "Fresh basil", "The update", "The minister")
_WHAT = (
    "ended two to one",
    "needs ten minutes more",
    "was released on Monday",
    "lost the vote",
    "tastes of lemon and pepper",
    "runs faster than before",
    "was praised by everyone",
    "came as a surprise to many",
)


def main() -> None:
    """Measure, and print rows a second, the ratio, and the largest difference of a probability."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loader", default="onnx")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clauses", type=int, default=1, help="of each text, some six words each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    config = Config.from_mapping({"loader": arguments.loader, "resources": {"threads": 2}})
    with Pipeline.from_config(config) as pipeline, tempfile.TemporaryDirectory() as folder:
        pipeline.prefer_throughput()
        task = OpenedTask("classify", pipeline.task("classify"))
        pipeline.run("classify", **_row(draw, arguments.clauses))
        ratios: list[float] = []
        for number in range(arguments.rounds + 1):  # the first is not counted
            alone, together = ([_row(draw, arguments.clauses) for _ in range(arguments.rows)] for _ in range(2))
            began = time.perf_counter()
            for row in alone:
                pipeline.run("classify", **row)
            one_by_one = time.perf_counter() - began
            began = time.perf_counter()
            run_batch(task, pipeline.model, together, Path(folder) / f"{number}.jsonl")
            batch = time.perf_counter() - began
            if number:
                ratios.append(one_by_one / batch)
            print(f"one by one {arguments.rows / one_by_one:.1f} rows/s, batch {arguments.rows / batch:.1f} rows/s", flush=True)
        answers = [json.loads(line)["output"]["probabilities"] for line in (Path(folder) / f"{number}.jsonl").read_text().splitlines()]
        differences = [
            abs(value - answer[label])
            for row, answer in zip(together[:20], answers, strict=False)
            for label, value in pipeline.run("classify", **row).probabilities.items()
        ]
        facts: dict[str, Any] = pipeline.model.describe()
    print(f"{arguments.loader}, {facts['max_sequences']} sequences: batch / one by one {statistics.median(ratios):.2f} x")
    print(f"largest difference of a probability alone and in a batch: {max(differences):.2g}")


def _row(draw: random.Random, clauses: int) -> dict[str, Any]:
    said = ", and ".join(f"{draw.choice(_WHO)} {draw.choice(_WHAT)}" for _ in range(clauses))
    return {"text": f"{said} ({draw.randint(1, 999)}).", "labels": _LABELS}


if __name__ == "__main__":
    main()
