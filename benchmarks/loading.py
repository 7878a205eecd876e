"""How long the default model takes to load, beside an earlier version of LLMasOS. Run with `make bench-load`.

    make bench-load ARGS="--before ../before/.venv/bin/python --rounds 15"

Each load is one of a process of its own whose caches are warm: the model is in the store, was checked and built before, and Python's byte
code is there. Both versions load in turn, so that what slows the machine slows both, each with a folder of its own for what it keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

_LOAD = """
import json, sys, time
import_began, processor_began = time.perf_counter(), time.process_time()
import llmasos
llmasos.load_model
load_began = time.perf_counter()
model = llmasos.load_model(**json.loads(sys.argv[1]))
ended, processor_ended = time.perf_counter(), time.process_time()
model.logits([1, 2, 3])
first = time.perf_counter()
model.close()
print(json.dumps({
    "import": load_began - import_began, "load": ended - load_began, "both": ended - import_began, "first logits": first - import_began,
    "processor": processor_ended - processor_began,
}))
"""
_FIGURES = ("import", "load", "both", "first logits", "processor")


@attrs.frozen
class Version:
    """An installed LLMasOS, and how it is asked for a model."""

    name: str
    python: Path
    options: Mapping[str, Any]

    def seconds(self, home: Path) -> dict[str, float]:
        """Of one load in a new process."""
        # Where the shell says that byte code is not kept, each process would compile all modules, and the version with more of them lose.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"LLMASOS_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "bytecode")}
        command = [str(self.python), "-W", "ignore", "-c", _LOAD, json.dumps(self.options)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name} loads nothing:\n{done.stderr[-2000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def measure(versions: list[Version], rounds: int, top: Path) -> dict[str, list[dict[str, float]]]:
    """The seconds of each load of each version, those of one round one after the other."""
    found: dict[str, list[dict[str, float]]] = {version.name: [] for version in versions}
    for version in versions:
        for _ in range(2):  # fetches, checks and builds; then all byte code is written
            version.seconds(top / version.name)
    for place in range(rounds):
        # Neither is always the one that comes after the other.
        for version in versions if place % 2 else reversed(versions):
            found[version.name].append(version.seconds(top / version.name))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--before", type=Path, help="the Python of another environment, whose LLMasOS is measured beside this one")
    arguments.add_argument("--model", default="smollm2")
    arguments.add_argument("--loader", default="onnx")
    arguments.add_argument("--kernels", default="onnx", help="of this version: onnx, auto or cpu")
    arguments.add_argument("--rounds", type=int, default=15)
    given = arguments.parse_args()
    plain = {"source": given.model, "loader": given.loader}
    ours = plain if given.loader != "onnx" else plain | {"loader": {"use": given.loader, "kernels": given.kernels}}
    versions = [Version("now", Path(sys.executable), ours)]
    if given.before is not None:
        versions.insert(0, Version("before", given.before.absolute(), plain))
    with tempfile.TemporaryDirectory() as name:
        found = measure(versions, given.rounds, Path(name))
    print(f"{'median of ' + str(given.rounds):20}" + "".join(f"{figure:>16}" for figure in _FIGURES))
    for version, seconds in found.items():
        print(f"{version:20}" + "".join(f"{statistics.median(each[figure] for each in seconds):14.3f} s" for figure in _FIGURES))
    if given.before is not None:
        pairs = list(zip(found["now"], found["before"], strict=True))
        more = [statistics.median(now[figure] - before[figure] for now, before in pairs) for figure in _FIGURES]
        print(f"{'more, by round':20}" + "".join(f"{each:+14.3f} s" for each in more))


if __name__ == "__main__":
    main()
