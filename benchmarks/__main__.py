"""``make bench``: LLMasOS against its peers, in turn, in one run.

Every engine runs in its own process and is measured in turn, round after round; a figure is the median of its rounds. Only ratios within a
run are comparable, because the machine's speed changes from minute to minute. Each row has its mean KL divergence from the dequantised
model over a text; a row over 0.01 does not count as exact.

"requests": tokens a second over 24 requests of mixed lengths that arrive at once. "continuous / static": speed-up of continuous batching
over static batches of 8 for 24 requests that arrive over time, on the same engine with 8 sequences at a time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from benchmarks.driver import EngineProcess
from benchmarks.figures import Figures, ratios, table
from benchmarks.workload import NEW_TOKENS, PROMPT_TOKENS, Workload, prepare
from llmasos.system.folders import cache_folder

#: name -> module, options.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "onnx auto": ("llmasos_engine", {"loader": {"use": "onnx"}}),
    "onnx auto, ONNX Runtime alone": ("llmasos_engine", {"loader": {"use": "onnx", "kernels": "onnx"}}),
    "onnx auto, inexact drafts": ("llmasos_engine", {"loader": {"use": "onnx", "exact_drafts": False}}),
    "onnx int8_channel": ("llmasos_engine", {"loader": {"use": "onnx", "precision": "int8_channel"}}),
    "onnx int8_channel, inexact drafts": (
        "llmasos_engine",
        {"loader": {"use": "onnx", "precision": "int8_channel", "exact_drafts": False}},
    ),
    "onnx int8": ("llmasos_engine", {"loader": {"use": "onnx", "precision": "int8"}}),
    "onnx fp32": ("llmasos_engine", {"loader": {"use": "onnx", "precision": "fp32"}}),
    "torch auto": ("llmasos_engine", {"loader": {"use": "torch"}}),
    "torch int8": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "int8"}}),
    "torch bf16": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "bfloat16"}}),
    "torch fp32": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "float32"}}),
    "tf int8": ("llmasos_engine", {"loader": {"use": "tf", "precision": "int8"}}),
    "tf fp32": ("llmasos_engine", {"loader": {"use": "tf", "precision": "fp32"}}),
    "openvino auto": ("llmasos_engine", {"loader": {"use": "openvino"}}),
    "openvino f32": ("llmasos_engine", {"loader": {"use": "openvino", "precision": "f32"}}),
    "llama.cpp": ("llama_cpp", {}),
    "onnxruntime-genai int8": ("onnxruntime_genai", {}),
    "openvino-genai": ("openvino_genai", {}),
    "transformers bf16": ("transformers_generate", {"dtype": "bfloat16"}),
    "transformers fp32": ("transformers_generate", {"dtype": "float32"}),
}
BATCHES = (1, 8, 32)
STATIC_BATCH = 8
#: Seconds between two engines.
_PAUSE = 0.5


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES), metavar="ENGINE", help=", ".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--requests", action=argparse.BooleanOptionalAction, default=True, help="also serve requests of mixed lengths")
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "bench.json")
    parser.add_argument("--embed", action="store_true", help="measure embedding models instead: texts a second against their peers")
    arguments = parser.parse_args()
    if arguments.embed:
        from benchmarks.embedding import compare

        compare(arguments.rounds, arguments.output.with_name("embed.json"))
        return
    workload = prepare(cache_folder() / "bench")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    protocol = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "quality_tokens": len(workload.text)}
    figures: dict[str, Figures] = {}
    for figures in measure(workload, arguments.engines, arguments.rounds, arguments.batches, requests=arguments.requests):
        found = {"protocol": protocol, "engines": {name: attrs.asdict(row) for name, row in figures.items()}}
        arguments.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(figures, arguments.batches))
    print()
    print("\n".join(ratios(figures)))
    print(f"\nWritten to {arguments.output}.")


def measure(workload: Workload, names: list[str], rounds: int, batches: list[int], *, requests: bool) -> Iterator[dict[str, Figures]]:
    """Load every engine twice (the first may build caches), and ask them in turn. Yields all figures so far after each round."""
    figures = {name: Figures(is_ours=ENGINES[name][0] == "llmasos_engine") for name in names}
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
            # Forward and backward: the order matters, because threads of the previous engine may still spin.
            for name, process in list(processes.items())[:: -1 if number % 2 else 1]:
                time.sleep(_PAUSE)
                _measure_batches(process, workload, number, batches, figures[name])
                if requests:
                    _measure_requests(process, workload, figures[name])
            for name, process in processes.items():
                figures[name].memory = process.ask("memory")
            print(f"round {number + 1} of {rounds}", flush=True)
            yield figures
    finally:
        for process in processes.values():
            process.close()


def _measure_batches(process: EngineProcess, workload: Workload, number: int, batches: list[int], row: Figures) -> None:
    row.prefill.append(PROMPT_TOKENS / process.ask("prefill", prompt=workload.prompts[number + 1]))
    for batch in batches:
        seconds = process.ask("decode", prompts=workload.prompts[:batch])
        row.decode.setdefault(batch, []).append(batch * NEW_TOKENS / seconds)
    if row.is_ours:
        row.overhead.append(process.ask("overhead", prompt=workload.prompts[number + 1]))


def _measure_requests(process: EngineProcess, workload: Workload, row: Figures) -> None:
    if process.ask("offers", method="serve"):
        tokens = sum(each.new_tokens for each in workload.requests)
        row.requests.append(tokens / process.ask("serve"))
    if process.ask("offers", method="serve_arriving"):
        row.continuous.append(process.ask("serve_arriving", slots=STATIC_BATCH, static=False))
        row.static.append(process.ask("serve_arriving", slots=STATIC_BATCH, static=True))


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


if __name__ == "__main__":
    main()
