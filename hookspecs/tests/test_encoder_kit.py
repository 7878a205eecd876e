"""``EncoderConformance`` passes a right loader and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import attrs
import numpy as np
from llmasos_hookspecs import Component, hookimpl
from llmasos_hookspecs.testing.reference_encoder import ReferenceEncoder

@hookimpl
def llmasos_component():
    return Component(summary="An encoder in numpy.", architectures=("bert",), takes=lambda checkpoint: None)

@hookimpl
def llmasos_load(checkpoint, options, context):
{load}
"""
RIGHT = "return ReferenceEncoder(checkpoint, context.limits)"


def plugin(load: str = RIGHT) -> str:
    return PLUGIN.format(load=textwrap.indent(textwrap.dedent(load).strip(), "    "))


def encoder(body: str) -> str:
    """A loader whose encoder is the right one but for ``body``."""
    inner = "class Wrong(ReferenceEncoder):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return plugin(f"{inner}\nreturn Wrong(checkpoint, context.limits)")


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: str


WRONG = {
    "begins positions at one": Wrong(
        encoder("def places(self, row): return [min(place + 1, 63) for place in range(len(row.tokens))]"),
        "test_vectors_are_those_of_the_reference",
    ),
    "pools the first token and says the mean": Wrong(
        encoder("def pooled(self, hidden): return hidden[0]"), "test_vectors_are_those_of_the_reference"
    ),
    "sees the padding of shorter texts": Wrong(
        encoder("""
            def encode(self, rows):
                longest = max((len(row.tokens) for row in rows), default=0)
                self.check(rows)
                padded = [attrs.evolve(row, tokens=[*row.tokens, *[0] * (longest - len(row.tokens))], types=()) for row in rows]
                return super().encode(padded)
        """),
        "test_texts_of_a_batch_do_not_change_one_another",
    ),
    "gives results in the order of lengths": Wrong(
        encoder("def encode(self, rows): return super().encode(sorted(rows, key=lambda row: len(row.tokens)))"),
        "test_texts_of_a_batch_do_not_change_one_another",
    ),
    "takes no batch as large as it says": Wrong(
        encoder("""
            def encode(self, rows):
                if sum(len(row.tokens) for row in rows) > 100:
                    raise MemoryError
                return super().encode(rows)
        """),
        "test_a_batch_as_large_as_the_encoder_says_is_encoded",
    ),
    "overlooks segments": Wrong(
        encoder("def hidden(self, row): return super().hidden(attrs.evolve(row, types=()))"), "test_segments_of_a_pair_are_seen"
    ),
    "keeps segments of the row before": Wrong(
        encoder("""
            def hidden(self, row):
                self.kept = list(row.types) or getattr(self, "kept", [])[: len(row.tokens)]
                kept = self.kept if len(self.kept) == len(row.tokens) else ()
                return super().hidden(attrs.evolve(row, types=kept))
        """),
        "test_segments_of_a_pair_are_seen",
    ),
    "lends one array for all calls": Wrong(
        encoder("""
            lent = np.zeros((4096, 32), dtype=np.float32)

            def encode(self, rows):
                self.lent[: len(rows)] = super().encode(rows)
                return self.lent[: len(rows)]
        """),
        "test_results_stay_what_they_were",
    ),
    "cuts what is too long": Wrong(
        encoder("def check(self, rows): super().check([row for row in rows if len(row.tokens) < 65])\n"
                "def places(self, row): return [min(place, 63) for place in range(len(row.tokens))]"),
        "test_wrong_rows_of_texts_are_refused",
    ),
    "takes tokens from the end of the vocabulary": Wrong(
        encoder("def check(self, rows): super().check([row for row in rows if -1 not in row.tokens])"),
        "test_wrong_rows_of_texts_are_refused",
    ),
    "breaks at a row that it refuses": Wrong(
        encoder("""
            def check(self, rows):
                try:
                    super().check(rows)
                except ValueError:
                    self._weights = {name: array * 2 for name, array in self._weights.items()}
                    raise
        """),
        "test_wrong_rows_of_texts_are_refused",
    ),
    "returns float64": Wrong(
        encoder("def encode(self, rows): return super().encode(rows).astype(np.float64)"), "test_vectors_are_those_of_the_reference"
    ),
    "shuts down once": Wrong(encoder("def shutdown(self): del self._weights"), "test_shutdown_of_an_encoder_twice"),
    "knows no memory limit": Wrong(plugin("return ReferenceEncoder(checkpoint)"), "test_memory_is_a_limit_of_encoders"),
    "says a batch too small for a text": Wrong(
        encoder("""
            @property
            def info(self):
                return attrs.evolve(super().info, max_batch_tokens=super().info.context_length - 1)
        """),
        "test_info_of_the_encoder_is_true",
    ),
    "fills in what is missing": Wrong(
        plugin("""
            from llmasos_hookspecs.testing.reference_encoder import tiny_encoder
            return ReferenceEncoder(tiny_encoder(), context.limits)
        """),
        "test_a_damaged_encoder_is_refused",
    ),
}  # fmt: skip


def test_a_right_loader_passes(run_conformance: Callable[..., Any]) -> None:
    outcomes = run_conformance("EncoderConformance", plugin())
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("name", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_encoder_is_caught(run_conformance: Callable[..., Any], name: str) -> None:
    wrong = WRONG[name]
    assert wrong.caught_by in run_conformance("EncoderConformance", wrong.source, only=[wrong.caught_by]).failed
