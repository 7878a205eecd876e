"""``MediaConformance`` passes a right engine and catches wrong ones, each by the test that is meant to."""

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
    return Component(summary="Embeddings among tokens, in numpy.", options=Options)

@hookimpl
def llmasos_load(checkpoint, options, context):
    import numpy as np
    from llmasos_hookspecs import Media, RequestError
    from llmasos_hookspecs.testing.media_engine import ReferenceMediaEngine

    class Engine(ReferenceMediaEngine):
{engine}

    return Engine(checkpoint, context.limits)
"""

BODY = """
@classmethod
def make_checkpoint(cls, folder):
    return tiny_checkpoint("llama", folder=folder)

@classmethod
def make_media(cls, seed):
    import numpy as np
    from llmasos_hookspecs import Media
    return Media.of("embeddings", 0.3 * np.random.default_rng(seed).standard_normal((5, 64)))
"""


def plugin(engine: str = "pass") -> str:
    """A loader whose engine is right but for these methods."""
    return PLUGIN.format(engine=textwrap.indent(textwrap.dedent(engine).strip(), " " * 8))


#: Defect -> the plugin, and the standard tests that must fail for it.
WRONG: dict[str, tuple[str, set[str]]] = {
    "the content makes no difference": (
        plugin("""
            def embeddings(self, row):
                tokens, extra = super().embeddings(row)
                return tokens, [0 * each for each in extra]
        """),
        {"test_the_content_counts", "test_two_media"},
    ),
    "a row that begins within media has them from their beginning": (
        plugin("""
            def embeddings(self, row):
                tokens, extra = super().embeddings(row)
                return tokens, [placed.media.data[: len(each)] for placed, each in zip(row.media, extra)]
        """),
        {"test_chunks", "test_fork_and_truncate"},
    ),
    "the first media of a step are everybody's": (
        plugin("""
            def step(self, rows):
                self.first = None
                return super().step(rows)

            def embeddings(self, row):
                tokens, extra = super().embeddings(row)
                if extra:
                    self.first = extra[0] if self.first is None else self.first
                return tokens, [self.first if self.first.shape == each.shape else each for each in extra]
        """),
        {"test_a_batch", "test_two_media"},
    ),
    "later rows of a slot have the media of its first": (
        plugin("""
            def embeddings(self, row):
                tokens, extra = super().embeddings(row)
                kept = self.__dict__.setdefault("kept", {})
                if row.position == 0:
                    kept[row.slot] = extra
                return tokens, [old if old.shape == new.shape else new for old, new in zip(kept[row.slot], extra)]
        """),
        {"test_two_media"},
    ),
    "what was made of media is kept for a sharer and for no content": (
        plugin("""
            def embedded(self, media):
                kept = self.__dict__.setdefault("kept", {})
                return kept.setdefault(self.sharer, super().embedded(media)) if self.sharer else super().embedded(media)

            def embeddings(self, row):
                self.sharer = row.sharer
                return super().embeddings(row)
        """),
        {"test_media_that_were_seen_before"},
    ),
    "virtual tokens without media are read as some token": (
        plugin("""
            def embeddings(self, row):
                if not row.media:
                    return [token % self.info.vocab_size for token in row.tokens], []
                return super().embeddings(row)
        """),
        {"test_wrong_rows_change_nothing"},
    ),
    "every kind of media is taken": (
        plugin("""
            def media_length(self, media):
                return len(media.data)
        """),
        {"test_media_are_measured_by_their_shape"},
    ),
    "the content decides the length": (
        plugin("""
            def media_length(self, media):
                return super().media_length(media) + int(1000 * abs(media.data[0, 0])) % 3
        """),
        {"test_media_are_measured_by_their_shape"},
    ),
    "its token of media is past the vocabulary": (
        plugin("""
            @property
            def info(self):
                found = super().info
                return attrs.evolve(found, media_tokens={"embeddings": found.vocab_size})
        """),
        {"test_info_is_true"},
    ),
    "it does not say that it takes media": (
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
def test_a_right_engine_passes(run_conformance: Callable[..., Any]) -> None:
    """The numpy engine passes every standard test."""
    outcomes = run_conformance("MediaConformance", plugin(), BODY)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert len(outcomes.passed) >= 12


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_engine_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """An engine with one defect fails the tests that are meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("MediaConformance", source, BODY, caught_by)
    assert not outcomes.collection_errors
    assert caught_by <= outcomes.failed, f"caught only by {sorted(outcomes.failed)}, passed {sorted(outcomes.passed)}"


def test_a_kit_without_media_says_what_is_missing(run_conformance: Callable[..., Any]) -> None:
    """A subclass must name a model and media of its own."""
    outcomes = run_conformance("MediaConformance", plugin(), only={"test_info_is_true"})
    assert "must define make_checkpoint" in outcomes.messages["test_info_is_true"]
