"""How long a sealed model takes to load, beside the same model in the clear. Run with `make bench-seal`.

Each load is one of a process of its own, with the loader's library imported beforehand: `cold` with an empty cache, `warm` with what the
load before left there. Of a sealed model nothing is left.
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
began = time.perf_counter()
with llmasos.load_model(sys.argv[1], loader=sys.argv[2]) as model:
    model.logits([1, 2, 3])
    print(json.dumps(time.perf_counter() - began))
"""


def load_seconds(source: Path, loader: str, home: Path) -> float:
    """Seconds until the first logits."""
    environment = {**os.environ, "LLMASOS_HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-c", _LOAD, str(source), loader, LOADERS[loader]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="smollm2")
    arguments.add_argument("--loaders", nargs="+", choices=list(LOADERS), default=["onnx", "torch"])
    arguments.add_argument("--repeat", type=int, default=3)
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
        print(f"{'loader':10} {'plain, cold':>12} {'plain, warm':>12} {'sealed':>12} {'of cold':>8}")
        for loader in given.loaders:
            seconds: dict[str, list[float]] = {"cold": [], "warm": [], "sealed": []}
            for index in range(given.repeat):
                home = top / f"{loader}-{index}"
                seconds["cold"].append(load_seconds(plain, loader, home))
                seconds["warm"].append(load_seconds(plain, loader, home))
                load_seconds(sealed, loader, home)  # the tokenizer is inspected once
                seconds["sealed"].append(load_seconds(sealed, loader, home))
            cold, warm, ours = (statistics.median(seconds[key]) for key in ("cold", "warm", "sealed"))
            print(f"{loader:10} {cold:10.2f} s {warm:10.2f} s {ours:10.2f} s {ours / cold:8.2f}")


if __name__ == "__main__":
    main()
