"""How long a sealed model takes to load, beside the same model in the clear. Run with `make bench-seal`.

Each load is one of a process of its own, with the loader's library imported beforehand: `first` with an empty cache, `again` with what the
load before left there; of a sealed model that is encrypted. The four take turns, and the medians are printed, with the ratios of sealed to
plain. Processor time by default, which is nearly the same on a busy machine; `--clock` measures time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from llmasos.system.sources import resolve
from llmasos_seal.age import VARIABLE, Recipients, new_identity
from llmasos_seal.signing import new_signing_key, read_signing_key
from llmasos_seal.writing import seal

LOADERS = {"onnx": "onnxruntime", "torch": "torch", "openvino": "openvino", "tf": "tensorflow"}

_LOAD = """
import importlib, json, sys, time
importlib.import_module(sys.argv[3])
import llmasos, llmasos.api.model
now = getattr(time, sys.argv[4])
began = now()
with llmasos.load_model(sys.argv[1], loader=sys.argv[2]) as model:
    model.logits([1, 2, 3])
    print(json.dumps(now() - began))
"""


def load_seconds(source: Path, loader: str, home: Path, clock: str) -> float:
    """Seconds until the first logits."""
    environment = {**os.environ, "LLMASOS_HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-c", _LOAD, str(source), loader, LOADERS[loader], clock]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="smollm2")
    arguments.add_argument("--loaders", nargs="+", choices=list(LOADERS), default=["onnx", "torch"])
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--clock", action="store_const", const="perf_counter", default="process_time")
    given = arguments.parse_args()
    found = resolve(given.model).path
    plain = found if found.is_file() or (found / "config.json").is_file() else next(found.rglob("*.gguf"))
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        text, public = new_identity()
        (top / "identity.txt").write_text(text)
        (top / "key.pem").write_text(new_signing_key()[0])
        os.environ[VARIABLE] = str(top / "identity.txt")
        sealed = top / "sealed"
        sealed.mkdir()
        sources = {plain.name: plain} if plain.is_file() else {file.name: file for file in plain.iterdir() if file.is_file()}
        seal(sources, sealed, Recipients.of([public]), read_signing_key(top / "key.pem"))
        print(f"{'loader':10} {'':8} {'plain':>8}   {'sealed':>8}   {'ratio':>6}")
        for loader in given.loaders:
            seconds: dict[tuple[str, Path], list[float]] = {}
            for turn in range(given.repeat):
                home = top / f"{loader}-{turn}"
                for time in ("first", "again"):
                    for source in (plain, sealed) if turn % 2 else (sealed, plain):
                        taken = load_seconds(source, loader, home / source.name, given.clock)
                        seconds.setdefault((time, source), []).append(taken)
            for time in ("first", "again"):
                ratio = statistics.median(b / a for a, b in zip(seconds[time, plain], seconds[time, sealed], strict=True))
                clear, ours = (statistics.median(seconds[time, source]) for source in (plain, sealed))
                print(f"{loader:10} {time:8} {clear:8.2f} s {ours:8.2f} s {ratio:6.2f}")


if __name__ == "__main__":
    main()
