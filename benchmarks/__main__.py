"""``make bench``: LLMasOS against its peers, in turn, in one run.

Every engine lives in a process of its own and is asked in turn, round after round; a figure is the median of its rounds. Only the ratios
within a run mean anything: the machine's speed changes from minute to minute. Beside each row stands its mean KL divergence to the
dequantised model over a text; a row over 0.01 does not count as exact.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from benchmarks.driver import EngineProcess
from benchmarks.workload import NEW_TOKENS, PROMPT_TOKENS, Workload, prepare
from llmasos.system.folders import cache_folder

#: name -> module, options. The first is the yardstick of quality; it is not timed.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "onnx auto": ("llmasos_engine", {"loader": {"use": "onnx"}}),
    "onnx int8": ("llmasos_engine", {"loader": {"use": "onnx", "precision": "int8"}}),
    "onnx fp32": ("llmasos_engine", {"loader": {"use": "onnx", "precision": "fp32"}}),
    "llama.cpp": ("llama_cpp", {}),
    "onnxruntime-genai int8": ("onnxruntime_genai", {}),
    "openvino-genai": ("openvino_genai", {}),
    "torch fp32": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "float32"}}),
    "torch bf16": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "bfloat16"}}),
    "torch auto": ("llmasos_engine", {"loader": {"use": "torch"}}),
    "tf fp32": ("llmasos_engine", {"loader": {"use": "tf"}}),
    "transformers fp32": ("transformers_generate", {"dtype": "float32"}),
    "transformers bf16": ("transformers_generate", {"dtype": "bfloat16"}),
}
NATIVE = ("onnx auto", "onnx int8", "onnx fp32", "llama.cpp", "onnxruntime-genai int8", "openvino-genai")
EXACT = 0.01
BATCHES = (1, 8, 32)


@attrs.define(kw_only=True)
class Figures:
    """One engine's row. Speeds are tokens a second of all sequences together, one entry a round; sizes in bytes, loads in seconds."""

    prefill: list[float] = attrs.field(factory=list)
    decode: dict[int, list[float]] = attrs.field(factory=dict)
    overhead: list[float] = attrs.field(factory=list)
    kl: float | None = None
    top1: float | None = None
    first_load: float = 0.0
    load: float = 0.0
    memory: int = 0

    def median(self, what: int | None) -> float:
        """Of prefill (None) or of decode at a batch size."""
        values = self.prefill if what is None else self.decode.get(what, [])
        return statistics.median(values) if values else 0.0


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--engines", nargs="*", default=list(NATIVE), choices=list(ENGINES), metavar="ENGINE", help=", ".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "bench.json")
    arguments = parser.parse_args()
    workload = prepare(cache_folder() / "bench")
    figures = measure(workload, arguments.engines, arguments.rounds, arguments.batches)
    print(table(figures, arguments.batches))
    print()
    print("\n".join(ratios(figures)))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    protocol = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "rounds": arguments.rounds, "quality_tokens": len(workload.text)}
    found = {"protocol": protocol, "engines": {name: attrs.asdict(row) for name, row in figures.items()}}
    arguments.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"\nWritten to {arguments.output}.")


def measure(workload: Workload, names: list[str], rounds: int, batches: list[int]) -> dict[str, Figures]:
    """Load every engine twice (the first may build caches), and ask them in turn."""
    figures = {name: Figures() for name in names}
    processes: dict[str, EngineProcess] = {}
    try:
        reference = _reference(workload)
        for name in names:
            module, options = ENGINES[name]
            first = EngineProcess(f"benchmarks.engines.{module}", options, workload)
            figures[name].first_load = first.loaded
            first.close()
            processes[name] = EngineProcess(f"benchmarks.engines.{module}", options, workload)
            figures[name].load = processes[name].loaded
            _compare(processes[name], workload, reference, figures[name])
            print(f"{name}: loaded", flush=True)
        for number in range(rounds):
            for name, process in processes.items():
                row = figures[name]
                row.prefill.append(PROMPT_TOKENS / process.ask("prefill", prompt=workload.prompts[number + 1]))
                for batch in batches:
                    seconds = process.ask("decode", prompts=workload.prompts[:batch])
                    row.decode.setdefault(batch, []).append(batch * NEW_TOKENS / seconds)
                if ENGINES[name][0] == "llmasos_engine":
                    row.overhead.append(process.ask("overhead", prompt=workload.prompts[number + 1]))
            print(f"round {number + 1} of {rounds}", flush=True)
        for name, process in processes.items():
            figures[name].memory = process.ask("memory")
    finally:
        for process in processes.values():
            process.close()
    return figures


def _reference(workload: Workload) -> np.ndarray:
    process = EngineProcess("benchmarks.engines.llmasos_engine", {"loader": {"use": "onnx", "precision": "fp32"}}, workload)
    try:
        found = _logits(process, workload)
    finally:
        process.close()
    assert found is not None
    return found


def _logits(process: EngineProcess, workload: Workload) -> np.ndarray | None:
    """Log probabilities [tokens, vocab] of the text, float64."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/logits.npy"
        if not process.ask("logits", tokens=workload.text, path=path):
            return None
        logits = np.load(path).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _compare(process: EngineProcess, workload: Workload, reference: np.ndarray, row: Figures) -> None:
    found = _logits(process, workload)
    if found is not None:
        row.kl = float((np.exp(reference) * (reference - found)).sum(axis=1).mean())
        row.top1 = float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())


def table(figures: dict[str, Figures], batches: list[int]) -> str:
    """A line an engine."""
    head = ["engine", "prefill", *(f"batch {batch}" for batch in batches), "KL", "top-1", "overhead", "first load s", "load s", "peak MB"]
    lines = [head]
    for name, row in figures.items():
        lines.append(
            [
                name,
                f"{row.median(None):.0f}",
                *(f"{row.median(batch):.0f}" for batch in batches),
                "unknown" if row.kl is None else f"{row.kl:.4f}" + ("" if row.kl <= EXACT else " (not exact)"),
                "" if row.top1 is None else f"{row.top1:.1%}",
                f"{statistics.median(row.overhead):.1%}" if row.overhead else "",
                f"{row.first_load:.1f}",
                f"{row.load:.1f}",
                f"{row.memory / 1e6:.0f}",
            ]
        )
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def ratios(figures: dict[str, Figures]) -> list[str]:
    """Each exact row of ours against each peer, the median of the ratios within each round."""
    lines = []
    for ours, row in figures.items():
        if ENGINES[ours][0] != "llmasos_engine" or row.kl is None or row.kl > EXACT:
            continue
        for theirs, peer in figures.items():
            if ENGINES[theirs][0] == "llmasos_engine":
                continue
            parts = [f"prefill {_ratio(row.prefill, peer.prefill)}"]
            parts += [f"batch {batch} {_ratio(row.decode[batch], peer.decode[batch])}" for batch in row.decode]
            lines.append(f"{ours} / {theirs}: {', '.join(parts)}")
    return lines


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f} x"


if __name__ == "__main__":
    main()
