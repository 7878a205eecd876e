"""``make bench ARGS=--growth``: how time and memory grow with the prompt, the number of sequences, and the weights.

Random models: a small one with a context of 16,384 tokens for prompts and sequences, and three with the sizes of SmolLM2 (135 million,
360 million and 1.7 billion weights, 8 bits in blocks of 32). Seconds are processor seconds of one thread, which other work on the machine
hardly changes. An exponent of 1 is growth in proportion: it is the slope of a line through the
logarithms, over all points and over the last three. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import functools
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import attrs
import numpy as np

from benchmarks.engines.llmasos_engine import Driver
from llmasos_hookspecs import DecoderConfig, QuantizedTensor, Tensor
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.testing import TinyCheckpoint
from llmasos_huggingface_folder.writer import CheckpointFolderWriter
from llmasos_model_store.folders import cache_folder
from llmasos_residency.measurements import private_bytes

PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
SIZES = ("135M", "360M", "1.7B")
#: Tokens of a prompt, and of an answer, where they do not grow.
_PROMPT = 128
_ANSWER = 32
_ROUNDS = 3
#: Of each size its figures, as they are found.
Points = Iterator[tuple[int | str, dict[str, float]]]
#: Tokens of the last slope.
_LAST = 3

_SHARED = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
_CONFIGS: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
    | {"vocab_size": 1024, "max_position_embeddings": 16384},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "360M": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32},
}


@attrs.frozen
class Curve:
    """A figure at each size of what grows.

    Attributes:
        what: the figure and its unit.
        of: what grows.
    """

    what: str
    of: str
    sizes: Sequence[float]
    values: Sequence[float]

    @property
    def exponents(self) -> tuple[float, float]:
        """Over all sizes, and over the last ones."""
        return exponent(self.sizes, self.values), exponent(self.sizes[-_LAST:], self.values[-_LAST:])

    @property
    def sentence(self) -> str:
        """A line of a table."""
        points = ", ".join(f"{size:g}: {value:.3g}" for size, value in zip(self.sizes, self.values, strict=True))
        whole, last = self.exponents
        return f"{self.what} by {self.of}: {points}; exponent {whole:.2f}, of the last {_LAST} {last:.2f}"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the values' logarithms over those of the sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main(output: Path, loader: str = "onnx") -> None:
    """Measure all points that the file has not, print the curves, and write both as JSON, also after each point.

    So a run that is stopped goes on where it was; without the file all is measured anew.
    """
    points = kept_points(output, loader)
    output.parent.mkdir(parents=True, exist_ok=True)
    for of, (measure, sizes) in PARTS.items():
        found = points.setdefault(of, {})
        missing = [size for size in sizes if str(size) not in found]
        for size, figures in measure(loader, missing) if missing else ():
            found[str(size)] = figures
            write_atomically(output, json.dumps({"loader": loader, "points": points, "curves": []}, indent=1))
            print(f"{of}, {size}: {', '.join(f'{what} {value:.3g}' for what, value in figures.items())}", flush=True)
    curves = [curve for of, found in points.items() for curve in curves_of(of, found)]
    told = [attrs.asdict(curve) | {"exponents": curve.exponents} for curve in curves]
    write_atomically(output, json.dumps({"loader": loader, "points": points, "curves": told}, indent=1))
    print("\n".join(curve.sentence for curve in curves))
    print(f"Written to {output}; delete it to measure anew.")


def kept_points(output: Path, loader: str) -> dict[str, dict[str, dict[str, float]]]:
    """What a file has of a loader: by what grows and by size, figures by name."""
    if not output.exists():
        return {}
    found = json.loads(output.read_text(encoding="utf-8"))
    return dict(found["points"]) if found["loader"] == loader else {}


def curves_of(of: str, points: Mapping[str, Mapping[str, float]]) -> list[Curve]:
    """The curve of each figure, by ascending size."""
    by_size = sorted((_number(size), figures) for size, figures in points.items())
    sizes = [size for size, _ in by_size]
    return [Curve(what, of, sizes, [figures[what] for _, figures in by_size]) for what in by_size[0][1]]


def by_prompt(loader: str, sizes: Sequence[int]) -> Points:
    """Seconds of a prefill, and of each token behind it."""
    driver = _driver("small", loader, sequences=1, context=PROMPTS[-1] + 2 * _ANSWER)
    for size in sizes:
        reading = _best(functools.partial(driver.prefill_steps, _tokens(size)))
        yield size, {"prefill s": reading, "decode s a token": _token_seconds(driver, _tokens(size))}
    driver.close()


def by_sequences(loader: str, sizes: Sequence[int]) -> Points:
    """Seconds of a step that decodes a token of each sequence, and what the runtime adds to each."""
    driver = _driver("small", loader, sequences=SEQUENCES[-1], context=_PROMPT + 2 * _ANSWER)
    for size in sizes:
        prompts = [_tokens(_PROMPT, seed) for seed in range(size)]
        rounds = [driver.decode_steps(prompts, _ANSWER) for _ in range(_ROUNDS)]
        step, added = min(engine for _, engine in rounds), min(whole - engine for whole, engine in rounds)
        yield size, {"engine s a step": step, "runtime s a step": added}
    driver.close()


def by_weights(loader: str, sizes: Sequence[str]) -> Points:
    """Seconds of a prefill and of a token, and bytes in memory."""
    for size in sizes:
        gc.collect()
        before = private_bytes()
        driver = _driver(size, loader, sequences=1, context=_PROMPT + 2 * _ANSWER)
        reading = _best(functools.partial(driver.prefill_steps, _tokens(_PROMPT)))
        answering = _token_seconds(driver, _tokens(_PROMPT))
        held = max(1, private_bytes() - before, driver.weight_bytes())
        yield size, {"prefill s": reading, "decode s a token": answering, "bytes": float(held)}
        driver.close()


#: What grows: its measurement and its sizes.
PARTS: Final[dict[str, tuple[Callable[[str, Sequence[Any]], Points], Sequence[Any]]]] = {
    "prompt tokens": (by_prompt, PROMPTS),
    "sequences": (by_sequences, SEQUENCES),
    "weights": (by_weights, SIZES),
}


def _number(size: str) -> float:
    """Tokens or sequences, or of a model its weights."""
    return float(sum(np.prod(shape) for shape in _decoder(size).tensor_shapes().values())) if size in SIZES else float(size)


def _best(run: Callable[[], float]) -> float:
    """Of a few runs, after one that warms up: what else the processor does only adds."""
    run()
    return min(run() for _ in range(_ROUNDS))


def _token_seconds(driver: Driver, prompt: list[int]) -> float:
    """Of the engine, for each token behind a prompt."""
    return driver.decode_steps([prompt], _ANSWER)[1]


def _tokens(count: int, seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng([seed, count]).integers(0, 1000, count).tolist()
    return found


def _driver(size: str, loader: str, *, sequences: int, context: int) -> Driver:
    places: Any = SimpleNamespace(model=str(_folder(size)))
    return Driver(places, {"use": loader}, "model", sequences=sequences, context=context, threads=1, clock=time.process_time)


def _decoder(size: str) -> DecoderConfig:
    return DecoderConfig.from_dict(_config(size))


def _config(size: str) -> dict[str, Any]:
    usual = {"vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True}
    return {**_SHARED, **usual, **_CONFIGS[size]}


def _folder(size: str) -> Path:
    """A random model, written once; the small one in floats, the others in codes."""
    folder = cache_folder() / "bench" / f"growth-{size}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        with CheckpointFolderWriter(TinyCheckpoint(config=_config(size), tensors={}), folder) as writer:
            for name, shape in _decoder(size).tensor_shapes().items():
                writer.add(name, _random(rng, shape, coded=size != "small"))
    return folder


def _random(rng: np.random.Generator, shape: tuple[int, ...], *, coded: bool) -> Tensor:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rows, columns = shape
    if not coded:
        return (rng.standard_normal(shape) / np.sqrt(columns)).astype(np.float32)
    scales = np.full((rows, columns // 32), 1 / (74 * np.sqrt(columns)), np.float32)
    return QuantizedTensor(codes=rng.integers(0, 256, shape, np.uint8), scales=scales, bits=8, group=32)
