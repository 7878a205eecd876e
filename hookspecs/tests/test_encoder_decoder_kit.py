"""``EncoderDecoderConformance`` passes a right loader and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import attrs
from llmasos_hookspecs import Component, hookimpl

@attrs.frozen
class Options:
    threads: int = 1

@hookimpl
def llmasos_component():
    return Component(summary="Encoder-decoders in numpy.", options=Options)

@hookimpl
def llmasos_load(checkpoint, options, context):
    import numpy as np
    from llmasos_hookspecs import Row
    from llmasos_hookspecs.testing.encoder_decoder_engine import HeldTokens, ReferenceEncoderDecoderEngine
    from llmasos_hookspecs.testing.encoder_decoder_model import ReferenceEncoderDecoder

    class Engine(ReferenceEncoderDecoderEngine):
{engine}

    class Model(ReferenceEncoderDecoder):
{model}

    engine = Engine(checkpoint, context.limits)
    engine.decoder = Model(checkpoint)
    return engine
"""


def plugin(engine: str = "pass", model: str = "pass") -> str:
    """A loader whose engine and model are right but for these methods."""
    engine, model = (textwrap.indent(textwrap.dedent(each).strip(), " " * 8) for each in (engine, model))
    return PLUGIN.format(engine=engine, model=model)


#: Defect -> the plugin, and the standard tests that must fail for it.
WRONG: dict[str, tuple[str, set[str]]] = {
    "a fork loses the source": (
        plugin("""
            def fork(self, slot):
                return self._hold(HeldTokens([0] * len(self.slots[slot].source), self.slots[slot].target))
        """),
        {"test_fork"},
    ),
    "a fork shares what its origin holds": (
        plugin("""
            def fork(self, slot):
                copy = super().fork(slot)
                self.shared = {copy: slot}
                return copy

            def _planned(self, row):
                origin = getattr(self, "shared", {}).get(row.slot)
                if origin in self.slots:
                    kept = self.slots[origin]
                    self.slots[row.slot] = HeldTokens(kept.source, kept.target[: row.position - len(kept.source)])
                return super()._planned(row)
        """),
        {"test_fork"},
    ),
    "a source is attended to with the padding of its batch": (
        plugin("""
            def step(self, rows):
                self.padded = max((len(self.slots[row.slot].source) for row in rows), default=0)
                return super().step(rows)

            def _results(self, row, held):
                padded = held.source + [0] * (self.padded - len(held.source))
                return super()._results(row, HeldTokens(padded, held.target))
        """),
        {"test_sources_of_mixed_lengths_in_one_batch"},
    ),
    "the first source of a batch is everybody's": (
        plugin("""
            def step(self, rows):
                self.first = None
                return super().step(rows)

            def _results(self, row, held):
                self.first = self.first or held.source
                return super()._results(row, HeldTokens(self.first, held.target))
        """),
        {"test_sources_of_mixed_lengths_in_one_batch", "test_a_source_beside_decoding"},
    ),
    "a slot keeps its source when it is truncated to 0": (
        plugin("""
            def truncate(self, slot, length):
                held = self.slots[slot]
                self.old = held.source if not length and held.source else getattr(self, "old", None)
                super().truncate(slot, length)

            def _planned(self, row):
                held = super()._planned(row)
                return HeldTokens(self.old, held.target) if getattr(self, "old", None) and not row.position else held

            def close(self, slot):
                super().close(slot)
                self.old = None
        """),
        {"test_truncate"},
    ),
    "a target's positions count those of its source": (
        plugin(
            model="""
            def logits(self, source, target):
                self.shift = len(source)
                return super().logits(source, target)

            def _layer(self, root, x, mask, source):
                if "decoder" in root and ".0." in root and not self._t5:
                    x = x + 0.3 * np.sin(self.shift)
                return super()._layer(root, x + (0.02 * self.shift if self._t5 and "decoder" in root else 0), mask, source)
        """
        ),
        {"test_a_target_in_one_row", "test_token_by_token"},
    ),
    "a source sees only what is before": (
        plugin(
            model="""
            def _layer(self, root, x, mask, source):
                return super()._layer(root, x, mask + np.where(np.tri(len(x), dtype=bool), 0, -np.inf), source)
        """
        ),
        {"test_a_target_in_one_row", "test_token_by_token"},
    ),
    "what was made of a source is kept for a sharer and for no content": (
        plugin("""
            def _planned(self, row):
                held = super()._planned(row)
                kept = self.__dict__.setdefault("kept", {}).setdefault(row.sharer, held.source) if row.sharer else held.source
                return HeldTokens(kept, held.target)
        """),
        {"test_a_source_that_was_seen_before"},
    ),
    "every kind of media is measured": (
        plugin("""
            def media_length(self, media):
                return len(media.data)
        """),
        {"test_media_are_measured_by_their_shape"},
    ),
    "a row that is refused is kept": (
        plugin("""
            def step(self, rows):
                try:
                    return super().step(rows)
                except Exception:
                    for row in rows:
                        self.slots[row.slot] = HeldTokens([1, 2, 3], [])
                    raise

            def truncate(self, slot, length):
                if length:
                    super().truncate(slot, length)
        """),
        {"test_wrong_rows_change_nothing"},
    ),
    "a source gives logits": (
        plugin("""
            def _planned(self, row):
                import attrs
                if not row.position and row.want == "last" and row.media and len(row.tokens) == row.media[0].length:
                    return super()._planned(attrs.evolve(row, tokens=[*row.tokens, 0]))
                return super()._planned(row)
        """),
        {"test_wrong_rows_change_nothing"},
    ),
    "it does not say that it has a source": (
        plugin("""
            @property
            def info(self):
                import attrs
                return attrs.evolve(super().info, features=frozenset({"fork", "kv_cache"}))
        """),
        {"test_info_is_true"},
    ),
}


@pytest.mark.slow
def test_a_right_loader_passes(run_conformance: Callable[..., Any]) -> None:
    """The numpy engine passes every standard test on every case."""
    outcomes = run_conformance("EncoderDecoderConformance", plugin())
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert len(outcomes.passed) >= 15


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_loader_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A loader with one defect fails the tests that are meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("EncoderDecoderConformance", source, 'cases = ("t5", "marian")', caught_by)
    assert not outcomes.collection_errors
    assert caught_by <= outcomes.failed, f"caught only by {sorted(outcomes.failed)}, passed {sorted(outcomes.passed)}"
