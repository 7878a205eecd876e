"""``make bench``: LLMasOS against its peers, in turn, in one run.

Every engine runs in its own process and is measured in turn, round after round; the first rounds warm up and do not count. A figure is the
geometric mean of the others, with the interval that holds the true one 95 times in 100. Only ratios within a run are comparable, because
the machine's speed changes from minute to minute. Each row has its mean KL divergence from the dequantised model over a text; a row over
0.01 does not count as exact. "of GEMM" and "of bandwidth": the share of what the machine multiplies in a prefill, and reads in a decode at
batch 1. Peers run with the settings of peers.toml, which says how they were found.

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
from benchmarks.embedding import ENGINES as EMBEDDERS, compare
from benchmarks.figures import Figures, ratios, table
from benchmarks.limits import measure_limits
from benchmarks.peers import peer_settings, peers
from benchmarks.plot import draw
from benchmarks.workload import NEW_TOKENS, PROMPT_TOKENS, Workload, prepare
from llmasos_model_store.folders import cache_folder

#: name -> module, options.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "auto, tuned": ("llmasos_engine", {"loader": {"use": "auto", "tune": True}}),
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
    "torch auto, PyTorch alone": ("llmasos_engine", {"loader": {"use": "torch", "kernels": "torch"}}),
    "torch int8": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "int8"}}),
    "torch bf16": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "bfloat16"}}),
    "torch fp32": ("llmasos_engine", {"loader": {"use": "torch", "dtype": "float32"}}),
    "tf auto": ("llmasos_engine", {"loader": {"use": "tf"}}),
    "tf auto, TensorFlow alone": ("llmasos_engine", {"loader": {"use": "tf", "kernels": "tf"}}),
    "tf fp32": ("llmasos_engine", {"loader": {"use": "tf", "precision": "fp32"}}),
    "openvino auto": ("llmasos_engine", {"loader": {"use": "openvino"}}),
    "openvino f32": ("llmasos_engine", {"loader": {"use": "openvino", "precision": "f32"}}),
    "llama.cpp Q4_1": ("llama_cpp", {"file": "gguf"}),
    "llama.cpp Q8_0": ("llama_cpp", {"file": "q8_0"}),
    "onnxruntime-genai int8": ("onnxruntime_genai", {}),
    "openvino-genai Q8_0": ("openvino_genai", {"file": "q8_0"}),
    "openvino-genai Q4_1": ("openvino_genai", {"file": "gguf"}),
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
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before them")
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--requests", action=argparse.BooleanOptionalAction, default=True, help="also serve requests of mixed lengths")
    parser.add_argument("--arrivals", action=argparse.BooleanOptionalAction, default=True, help="also requests that arrive over time")
    how = f"try the settings of peers one by one, and print what each is worth; of all, or of some of {', '.join(peers())}"
    parser.add_argument("--search", nargs="*", choices=peers(), metavar="PEER", help=how)
    parser.add_argument("--growth", action="store_true", help="measure how cost grows with prompts, sequences and weights instead")
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "bench.json")
    parser.add_argument(
        "--embed",
        nargs="*",
        choices=EMBEDDERS,
        metavar="ENGINE",
        help=f"measure an embedding model instead: texts a second of these engines, by default all of: {'; '.join(EMBEDDERS)}",
    )
    arguments = parser.parse_args()
    if arguments.embed is not None:
        compare(arguments.embed or EMBEDDERS, arguments.rounds, arguments.output.with_name("embed.json"))
        return
    if arguments.growth:
        from benchmarks.growth import main as grow

        grow(arguments.output.with_name("growth.json"))
        return
    workload = prepare(cache_folder() / "bench")
    if arguments.search is not None:
        from benchmarks.search import search

        search(workload, arguments.search, arguments.rounds, arguments.batches)
        return
    limits = measure_limits()
    print(limits.sentence, flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    protocol = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "quality_tokens": len(workload.text)}
    figures: dict[str, Figures] = {}
    rounds = Rounds(warm_up=arguments.warm_up, counted=arguments.rounds)
    for figures in measure(
        workload, arguments.engines, rounds, arguments.batches, requests=arguments.requests, arrivals=arguments.arrivals
    ):
        found = {
            "protocol": protocol,
            "limits": attrs.asdict(limits),
            "engines": {name: attrs.asdict(row) for name, row in figures.items()},
        }
        arguments.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(figures, arguments.batches, limits, workload.linear_weights))
    print()
    print("\n".join(ratios(figures)))
    drawing = arguments.output.with_suffix(".svg")
    draw(figures, arguments.batches, drawing)
    print(f"\nWritten to {arguments.output} and {drawing}.")


@attrs.frozen
class Rounds:
    """How many rounds warm up, and how many count after them."""

    warm_up: int
    counted: int


def measure(
    workload: Workload, names: list[str], rounds: Rounds, batches: list[int], *, requests: bool, arrivals: bool
) -> Iterator[dict[str, Figures]]:
    """Load every engine twice (the first may build caches), and ask them in turn. Yields all figures after each round that counts."""
    figures = {name: Figures(is_ours=ENGINES[name][0] == "llmasos_engine") for name in names}
    processes: dict[str, EngineProcess] = {}
    try:
        reference = _reference(workload)
        for name in names:
            module, options = ENGINES[name]
            options = {**options, **peer_settings(module)}
            first = EngineProcess(f"benchmarks.engines.{module}", options, workload)
            figures[name].first_load = first.loaded
            first.close()
            processes[name] = EngineProcess(f"benchmarks.engines.{module}", options, workload)
            figures[name].load = processes[name].loaded
            figures[name].weight_bytes = processes[name].ask("weight_bytes")
            _compare(processes[name], workload, reference, figures[name])
            print(f"{name}: loaded", flush=True)
        for number in range(rounds.warm_up + rounds.counted):
            if number == rounds.warm_up:
                for row in figures.values():
                    row.forget_rounds()
            # Forward and backward: the order matters, because threads of the previous engine may still spin.
            for name, process in list(processes.items())[:: -1 if number % 2 else 1]:
                time.sleep(_PAUSE)
                _measure_batches(process, workload, number, batches, figures[name])
                if requests:
                    _measure_requests(process, workload, figures[name], arrivals=arrivals)
            for name, process in processes.items():
                figures[name].memory = process.ask("memory")
            print(f"round {number + 1} of {rounds.warm_up + rounds.counted}", flush=True)
            if number >= rounds.warm_up:
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
        for batch in (min(batches), max(batches)):
            row.overhead.setdefault(batch, []).append(process.ask("overhead", prompts=workload.prompts[:batch]))


def _measure_requests(process: EngineProcess, workload: Workload, row: Figures, *, arrivals: bool) -> None:
    if process.ask("offers", method="serve"):
        tokens = sum(each.new_tokens for each in workload.requests)
        row.requests.append(tokens / process.ask("serve"))
    if arrivals and process.ask("offers", method="serve_arriving"):
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
