"""Codes of every width, group and form give the logits of the weights they stand for, on the precision that ``auto`` takes, by
torch's own kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_torch import Options
from llmasos_backend_torch.linear import Int8Linear
from llmasos_backend_torch.loading import load
from llmasos_hookspecs import Engine, EngineLimits, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext

HEAD_NOTE = "Weights were rounded to 8 bits with one scale a row."
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 256, 40)]
WIDTH = 192  # which groups of 16 to 96 divide

#: Relative error of logits against float32, by what they are computed in. int4's products are of bfloat16.
BOUNDS = {"float32": 1e-5, "int8": 2e-3, "int4": 0.05}
#: Largest relative difference of a token's logits computed alone and among others.
BATCH_ERROR = {"float32": 1e-5, "int8": 1e-3, "int4": 0.015}


def coded(bits: int, group: int, form: str) -> TinyCheckpoint:
    """A tiny llama whose layers' matrices are codes; embedding and head stay float32."""
    base = tiny_checkpoint("llama", hidden_size=WIDTH, intermediate_size=WIDTH, num_attention_heads=12, num_key_value_heads=6)
    tensors = {name: quantize(tensor, bits, group, form) if "_proj" in name else tensor for name, tensor in base.tensors.items()}
    return attrs.evolve(base, tensors=tensors, format="gguf")


@pytest.fixture
def engine_of(tmp_path: Path) -> Iterator[Any]:
    engines: list[Engine] = []

    def make(checkpoint: TinyCheckpoint, **options: Any) -> Engine:
        context = SandboxContext(root=tmp_path, limits=EngineLimits(threads=1, max_sequences=4, context_length=96))
        engines.append(load(checkpoint, Options(device="cpu", kernels="torch", **options), context))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()


def in_chunks(engine: Engine, size: int) -> np.ndarray:
    """Logits of ``TOKENS`` computed so many at a time."""
    slot = engine.open()
    rows = (Row(slot, TOKENS[start : start + size], start, "all") for start in range(0, len(TOKENS), size))
    parts = [np.array(engine.step([row])[0]) for row in rows]
    engine.close(slot)
    return np.concatenate(parts)


def furthest(got: np.ndarray, expected: np.ndarray) -> float:
    return float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


#: On each change as many bits as there are kinds of kernels for, in groups that a kernel takes and that none does.
_BITS, _GROUPS = (3, 4, 8), (16, 64, WIDTH)
CODES = [
    pytest.param(
        bits, group, form, marks=() if bits in (_BITS if form == "zeros" else _BITS[1:]) and group in _GROUPS else pytest.mark.long
    )
    for bits in range(2, 9)
    for group in (16, 64, 96, WIDTH)
    for form in ("symmetric", "zeros", "minimums")
]


@pytest.mark.parametrize(("bits", "group", "form"), CODES)
def test_auto_computes_what_the_codes_stand_for(bits: int, group: int, form: str, engine_of: Any) -> None:
    """In codes where a kernel holds them as they are, else in float32; with few tokens at a time and with many."""
    checkpoint = coded(bits, group, form)
    engine = engine_of(checkpoint)
    if not Int8Linear.available():
        expected = "float32"
    elif bits <= 4 and group % 32 == 0:
        expected = "int4"
    elif group == WIDTH and form != "minimums" and (bits < 8 or form == "symmetric"):
        expected = "int8"
    else:
        expected = "float32"
    if (bits, group, form) != (8, WIDTH, "zeros"):  # where it depends on how far the zeros lie from the middle
        assert engine.info.dtype == expected
    assert engine.info.notes == ((HEAD_NOTE,) if engine.info.dtype == "int4" else ())
    reference = ReferenceDecoder(checkpoint).logits(TOKENS)
    alone, together = in_chunks(engine, 1), in_chunks(engine, len(TOKENS))
    assert furthest(together, reference) <= BOUNDS[engine.info.dtype]
    assert furthest(alone, reference) <= BOUNDS[engine.info.dtype]
    assert furthest(alone, together) <= BATCH_ERROR[engine.info.dtype]
