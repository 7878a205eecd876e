"""The loader ``torch`` with the kernels of ``llmasos-kernels-cpu``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_torch import Options
from llmasos_backend_torch.installed import InstalledDecoder
from llmasos_backend_torch.loading import load
from llmasos_backend_torch.memory import predict
from llmasos_hookspecs import Checkpoint, ConfigError, EngineLimits, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext
from llmasos_kernels_cpu import library

pytestmark = pytest.mark.skipif(library.chosen() == "scalar", reason="the processor has none of the instruction sets")

TOKENS = np.random.default_rng(3).integers(0, 40, 20).tolist()
LIMITS = EngineLimits(threads=1, max_sequences=4, context_length=64)
Start = Callable[..., Any]


def coded(case: str) -> TinyCheckpoint:
    """A tiny decoder whose layers are in 4 bits with minimums; embedding and head stay float32."""
    base = tiny_checkpoint(case)
    tensors = {
        name: quantize(np.asarray(tensor), 4, 32, "minimums") if "proj.weight" in name else tensor for name, tensor in base.tensors.items()
    }
    return attrs.evolve(base, tensors=tensors)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    engines: list[Any] = []

    def started(checkpoint: Checkpoint, **options: Any) -> Any:
        engines.append(load(checkpoint, Options(device="cpu", **options), SandboxContext(root=tmp_path, limits=LIMITS)))
        return engines[-1]

    yield started
    for engine in engines:
        engine.shutdown()


def is_installed(engine: Any) -> bool:
    return isinstance(engine._decoder, InstalledDecoder)


@pytest.mark.parametrize("case", ["llama", "llama-biases", "mistral", "qwen2", "qwen3", "llama-rope3-tied"])
def test_they_compute_what_the_codes_stand_for(case: str, start: Start) -> None:
    """With biases, windows, shared keys and normed heads, in a prompt and token by token; activations are rounded to 8 bits."""
    checkpoint = coded(case)
    engine = start(checkpoint)
    assert is_installed(engine)
    slot = engine.open()
    prompt = np.array(engine.step([Row(slot, TOKENS[:12], 0, "all")])[0])
    found = np.concatenate([prompt, *(np.array(engine.step([Row(slot, [TOKENS[at]], at)])[0]) for at in range(12, 20))])
    expected = ReferenceDecoder(checkpoint).logits(TOKENS)
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    foreseen = predict(checkpoint, Options(device="cpu"), LIMITS)
    assert foreseen is not None
    assert foreseen.weight_bytes == pytest.approx(engine.info.weight_bytes, rel=0.02)


def test_activations_in_bfloat16_are_nearer(start: Start) -> None:
    """A quarter of the rounding, where they are asked for by name."""
    checkpoint = coded("llama")
    expected = ReferenceDecoder(checkpoint).logits(TOKENS)
    errors = {}
    for kernels in ("cpu", "cpu_bf16"):
        engine = start(checkpoint, kernels=kernels)
        found = np.array(engine.step([Row(engine.open(), TOKENS, 0, "all")])[0])
        errors[kernels] = np.linalg.norm(found - expected)
    assert 0 < errors["cpu_bf16"] < 0.6 * errors["cpu"]


def test_a_token_has_the_same_logits_alone_in_a_batch_as_a_draft_and_in_a_fork(start: Start) -> None:
    engine = start(tiny_checkpoint("llama-q4-minimums"))
    assert is_installed(engine)
    alone = engine.open()
    expected = np.concatenate([np.array(engine.step([Row(alone, [token], at)])[0]) for at, token in enumerate(TOKENS)])
    prompt, draft = engine.open(), engine.open()
    found = engine.step([Row(prompt, TOKENS[:7], 0, "all"), Row(draft, TOKENS[:1], 0)])
    np.testing.assert_array_equal(found[0], expected[:7])
    np.testing.assert_array_equal(found[1], expected[:1])
    fork = engine.fork(prompt)
    engine.truncate(fork, 5)
    engine.truncate(alone, 19)
    rows = [
        Row(fork, TOKENS[5:6], 5),
        Row(prompt, TOKENS[7:20], 7, "all"),
        Row(alone, TOKENS[19:], 19),
        Row(draft, TOKENS[1:4], 1, "all", generated=True),
    ]
    wanted = (expected[5:6], expected[7:20], expected[19:], expected[1:4])
    for mine, theirs in zip(engine.step(rows), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_what_they_do_not_take_is_computed_by_torch(start: Start) -> None:
    """Options that name another way, layers in 8 bits, and one matrix in floats."""
    assert not is_installed(start(coded("llama"), kernels="torch"))
    assert not is_installed(start(coded("llama"), dtype="float32"))
    assert not is_installed(start(tiny_checkpoint("llama-q8"), kernels="cpu"))
    base = coded("llama")
    floats = {name: tensor for name, tensor in tiny_checkpoint("llama").tensors.items() if "layers.1.mlp.down" in name}
    assert floats
    assert not is_installed(start(attrs.evolve(base, tensors={**base.tensors, **floats})))


def test_unknown_kernels_are_refused(start: Start) -> None:
    with pytest.raises(ConfigError, match=r'kernels is "fpga".*pip install llmasos-kernels-fpga'):
        start(coded("llama"), kernels="fpga")
