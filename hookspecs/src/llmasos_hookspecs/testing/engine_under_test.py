"""An engine under test: checks the form of its results, and compares its logits with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.engine import Engine, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.held_slots import HeldSlots

Logits = npt.NDArray[np.float32]

#: Largest relative error |a - b| / |b| of a row of logits against the float reference, by ``EngineInfo.dtype``. The tiny random models
#: magnify rounding: 8 bits cost them 0.03, 4 bits 0.35, where a rotary frequency 2 % off costs 0.07 to 0.37.
TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.08, "int8": 0.1, "int4": 0.6}

#: Largest relative error between two ways to compute the same tokens on one engine (prefill, chunks, decode). Quantisation does not add
#: to it: sums of an integer GEMM do not depend on their order, and kernels for few and for many tokens, with float32 activations between
#: them, differ by at most 0.015 in 4 bits.
CONSISTENCY: Mapping[str, float] = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.08, "int8": 0.002, "int4": 0.02}


class EngineUnderTest(HeldSlots[Engine]):
    """An engine, the reference of its checkpoint, and the slots that a test opened."""

    def __init__(self, engine: Engine, checkpoint: TinyCheckpoint, tolerance: float | None, consistency: float | None) -> None:
        super().__init__(engine)
        self.checkpoint = checkpoint
        self.reference = ReferenceDecoder(checkpoint)
        dtype = engine.info.dtype
        exact = checkpoint.format == "gguf" and dtype in ("int8", "int4")  # codes as they are stored: no second rounding is due
        self.tolerance = (0.1 if exact else TOLERANCES.get(dtype, 0.1)) if tolerance is None else tolerance
        self.consistency = CONSISTENCY.get(dtype, 0.1) if consistency is None else consistency
        self._expected: dict[tuple[int, ...], Logits] = {}

    def prompt(self, length: int, seed: int) -> list[int]:
        """Random tokens, the same for the same arguments."""
        return [int(t) for t in np.random.default_rng(seed).integers(0, 256, length)]

    def step(self, *rows: Row) -> list[Logits]:
        """One step, its results checked for form and copied."""
        results = self.engine.step(rows)
        assert len(results) == len(rows), f"step returned {len(results)} arrays for {len(rows)} rows."
        for row, result in zip(rows, results, strict=True):
            count = {"last": 1, "none": 0}.get(row.want, len(row.tokens))
            info = self.engine.info
            expected = (count, info.hidden_size if row.want == "hidden" else info.vocab_size)
            assert isinstance(result, np.ndarray), f"step returned {type(result).__name__}, and it must return numpy arrays."
            assert result.dtype == np.float32, f"Results are {result.dtype}, and they must be float32."
            assert result.shape == expected, f"want={row.want!r} for {len(row.tokens)} tokens gave {result.shape}; it must give {expected}."
            assert np.isfinite(result).all(), "Results are not finite."
        return [np.array(result) for result in results]

    def prefill(self, slot: int, tokens: Sequence[int]) -> Logits:
        return self.step(Row(slot, tokens, 0, "all"))[0]

    def expected(self, tokens: Sequence[int]) -> Logits:
        """Logits [n, vocab] of a sequence computed in one step: the reference's where the engine's dtype is close to it, else the engine's
        own, which ``test_prefill`` compares with the reference."""
        if self.tolerance <= 0.02:
            return self.reference.logits(tokens)
        key = tuple(tokens)
        if key not in self._expected:
            slot = self.engine.open()
            self._expected[key] = np.array(self.engine.step([Row(slot, tokens, 0, "all")])[0])
            self.engine.close(slot)
        return self._expected[key]

    def learn(self, *sequences: Sequence[int]) -> None:
        """Compute the result of ``expected`` in advance, while a slot is free."""
        for tokens in sequences:
            self.expected(tokens)

    def agree(self, got: Logits, expected: Logits, what: str, limit: float | None = None) -> None:
        """Fail where a row of ``got`` differs from ``expected`` by more than rounding."""
        limit = self.consistency if limit is None else limit
        errors = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        worst = int(errors.argmax())
        assert errors[worst] <= limit, (
            f"{what}: token {worst} of {len(errors)} has a relative error of {errors[worst]:.3g}, over {limit:g}."
        )
