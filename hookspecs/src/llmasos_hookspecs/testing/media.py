"""Conformance tests of engines whose prompts hold media among their text tokens, such as images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import MediaEngine, Row
from llmasos_hookspecs.errors import LLMasOSError, RequestError
from llmasos_hookspecs.media import Media, PlacedMedia, virtual_tokens
from llmasos_hookspecs.testing.engine_under_test import CONSISTENCY
from llmasos_hookspecs.testing.held_slots import HeldSlots
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

Logits = npt.NDArray[np.float32]

_LIMITS = EngineLimits(threads=1, max_sequences=3)
#: Relative difference of logits below which two media count as the same to an engine.
_NO_DIFFERENCE = 1e-4


@attrs.frozen
class MediaPrompt:
    """The tokens of a prompt, virtual ones among them, and its media."""

    tokens: list[int]
    media: tuple[PlacedMedia, ...]

    def row(self, slot: int, start: int, end: int, want: Any = "all", sharer: str = "") -> Row:
        """The row of the positions from ``start`` to ``end``."""
        media = tuple(placed for placed in self.media if placed.start < end and placed.end > start)
        return Row(slot, self.tokens[start:end], start, want, media=media, sharer=sharer)


class MediaUnderTest(HeldSlots[MediaEngine]):
    """An engine, and the slots that a test opened."""

    def __init__(self, engine: MediaEngine, consistency: float | None) -> None:
        super().__init__(engine)
        self.whole = "whole_media" in engine.info.features
        self.consistency = CONSISTENCY.get(engine.info.dtype, 0.1) if consistency is None else consistency

    def prompt(self, *parts: Media | Sequence[int]) -> MediaPrompt:
        """A prompt of media and text tokens."""
        tokens: list[int] = []
        placed: list[PlacedMedia] = []
        for part in parts:
            if isinstance(part, Media):
                length = self.engine.media_length(part)
                placed.append(PlacedMedia(part, len(tokens), length, self.whole))
                tokens += virtual_tokens(part, length, self.engine.info.vocab_size, self.engine.info.preprocessing)
            else:
                tokens += part
        return MediaPrompt(tokens, tuple(placed))

    def step(self, *rows: Row) -> list[Logits]:
        """One step, its results copied and of the right shape."""
        results = [np.array(result) for result in self.engine.step(rows)]
        for row, result in zip(rows, results, strict=True):
            shape = ({"all": len(row.tokens), "last": 1, "none": 0}[row.want], self.engine.info.vocab_size)
            assert result.shape == shape, f"want={row.want!r} for {len(row.tokens)} tokens gave {result.shape}; it must give {shape}."
        return results

    def alone(self, prompt: MediaPrompt) -> Logits:
        """The logits of a prompt that is computed in one row of its own."""
        slot = self.open()
        (result,) = self.step(prompt.row(slot, 0, len(prompt.tokens)))
        self._slots.remove(slot)
        self.engine.close(slot)
        return result

    def agree(self, got: Logits, expected: Logits, what: str) -> None:
        """Fail where a row of logits differs by more than rounding."""
        worst = float(distance(got, expected).max())
        assert worst <= self.consistency, f"{what}: the relative error is {worst:.3g}, over {self.consistency:g}."


def distance(got: Logits, expected: Logits) -> npt.NDArray[Any]:
    """Relative difference of each row of logits."""
    found: npt.NDArray[Any] = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return found


class MediaConformance(PluginConformance, standard=True):
    """Subclass it beside ``LoaderConformance`` where a loader's engines take media, and say with which model and which media::

        class TestImages(MediaConformance):
            module = "llmasos_backend_mine"

            @classmethod
            def make_checkpoint(cls, folder): ...    # a tiny model that takes images

            @classmethod
            def make_media(cls, seed): return Media.of("image", pixels(seed))

    Attributes:
        consistency: largest relative error between two ways to compute the same tokens; None: by the engine's dtype.
    """

    kind = "loader"
    consistency: ClassVar[float | None] = None

    @classmethod
    def make_checkpoint(cls, folder: Path) -> Checkpoint:  # noqa: ARG003 - of those that replace it
        """A tiny model whose engine takes media."""
        pytest.fail(f"{cls.__name__} must define make_checkpoint(folder): a tiny model that takes media.", pytrace=False)

    @classmethod
    def make_media(cls, seed: int) -> Media:  # noqa: ARG003 - of those that replace it
        """Media of one shape and of another content for each seed."""
        pytest.fail(f"{cls.__name__} must define make_media(seed): media of one shape, of another content for each seed.", pytrace=False)

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, sandbox: PluginSandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaUnderTest]:
        """The engine, shared by the tests."""
        root = tmp_path_factory.mktemp("loader")
        checkpoint = cls.make_checkpoint(root / "model")
        context = SandboxContext(root=root, limits=_LIMITS)
        engine: Any = sandbox.call("llmasos_load", checkpoint=checkpoint, options=cls.plugin_options(sandbox), context=context)
        yield MediaUnderTest(engine, cls.consistency)
        engine.shutdown()

    @pytest.fixture
    def engine(self, loaded: MediaUnderTest) -> Iterator[MediaUnderTest]:
        """The engine with every slot closed again afterwards."""
        yield loaded
        loaded.close_all()

    def test_info_is_true(self, engine: MediaUnderTest) -> None:
        """The engine says that it takes media; the token that stands for them in messages, where it names one, is in the vocabulary."""
        features = engine.engine.info.features
        assert isinstance(engine.engine, MediaEngine), "The engine lacks a method of the MediaEngine protocol."
        assert "media" in features, 'An engine that takes media has the feature "media".'
        for kind, token in engine.engine.info.media_tokens.items():
            assert 0 <= token < engine.engine.info.vocab_size, f"The token of {kind} in media_tokens is {token}, which is no token."

    def test_media_are_measured_by_their_shape(self, engine: MediaUnderTest) -> None:
        """Media of one shape take equally many positions, whatever their content; media of an unknown kind are refused."""
        lengths = {engine.engine.media_length(self.make_media(seed)) for seed in range(3)}
        assert len(lengths) == 1, f"Media of one shape take {sorted(lengths)} positions."
        assert lengths.pop() >= 1
        with pytest.raises(RequestError):
            engine.engine.media_length(Media.of("abacus", self.make_media(0).data))

    def test_the_content_counts(self, engine: MediaUnderTest) -> None:
        """The tokens after media depend on their content; equal content gives equal logits; those before depend on neither."""
        one, other = (engine.prompt([1, 2, 3], self.make_media(seed), [4, 5]) for seed in (0, 1))
        first, second = engine.alone(one), engine.alone(other)
        assert distance(first[-1], second[-1]) > _NO_DIFFERENCE, "Two media of other content give the same logits after them."
        engine.agree(first[:3], second[:3], "text before media")
        engine.agree(engine.alone(engine.prompt([1, 2, 3], self.make_media(0), [4, 5])), first, "the same media again")

    def test_chunks(self, engine: MediaUnderTest) -> None:
        """A prompt in several rows, cut at every place that the engine allows, gives the logits of one row."""
        prompt = engine.prompt([1, 2, 3], self.make_media(0), [4, 5, 6])
        expected, (placed,), size = engine.alone(prompt), prompt.media, len(prompt.tokens)
        inside = [] if engine.whole else [placed.start + 1, (placed.start + placed.end) // 2, placed.end - 1]
        for cut in sorted({2, placed.start, *inside, placed.end, placed.end + 1} & set(range(1, size))):
            slot = engine.open()
            parts = [engine.step(prompt.row(slot, *ends))[0] for ends in ((0, cut), (cut, size))]
            engine.agree(np.concatenate(parts), expected, f"a prompt that is cut at {cut}, media at {placed.start} to {placed.end}")
            engine.close_all()

    def test_two_media(self, engine: MediaUnderTest) -> None:
        """Each is at its own place, in chunks too; in the other order they give other logits."""
        media = [self.make_media(seed) for seed in (0, 1)]
        prompt, swapped = engine.prompt([1], *media, [2, 3]), engine.prompt([1], *media[::-1], [2, 3])
        expected = engine.alone(prompt)
        assert distance(expected[-1], engine.alone(swapped)[-1]) > _NO_DIFFERENCE, "The order of two media makes no difference."
        slot, border = engine.open(), prompt.media[0].end
        parts = [engine.step(prompt.row(slot, *ends))[0] for ends in ((0, border), (border, len(prompt.tokens)))]
        engine.agree(np.concatenate(parts), expected, "two media, a row for each")

    def test_a_batch(self, engine: MediaUnderTest) -> None:
        """Sequences with media of their own, and one without, in one step."""
        count = min(3, engine.engine.info.max_sequences)
        prompts = [
            engine.prompt([1, 2], self.make_media(0), [3]),
            engine.prompt(self.make_media(1), [4, 5, 6]),
            engine.prompt([7, 8, 9]),
        ][:count]
        expected = [engine.alone(prompt) for prompt in prompts]
        got = engine.step(*(prompt.row(engine.open(), 0, len(prompt.tokens)) for prompt in prompts))
        for index in range(count):
            engine.agree(got[index], expected[index], f"sequence {index} of {count} in one step")

    def test_fork_and_truncate(self, engine: MediaUnderTest) -> None:
        """A fork goes on like its origin, also from within media; truncated there, a slot takes the rest of the same media again."""
        prompt = engine.prompt([1, 2, 3], self.make_media(0), [4, 5, 6])
        expected, (placed,), size = engine.alone(prompt), prompt.media, len(prompt.tokens)
        place = placed.end if engine.whole else (placed.start + placed.end + 1) // 2
        origin = engine.open()
        engine.step(prompt.row(origin, 0, place, "none"))
        if "fork" in engine.engine.info.features and engine.engine.info.max_sequences > 1:
            copy = engine.fork(origin)
            engine.step(Row(origin, [9, 8], place, "none")) if place == placed.end else None
            engine.agree(engine.step(prompt.row(copy, place, size))[0], expected[place:], f"a fork at {place}")
            engine.engine.truncate(origin, place)
        engine.step(prompt.row(origin, place, size, "none"))
        engine.engine.truncate(origin, place)
        engine.agree(engine.step(prompt.row(origin, place, size))[0], expected[place:], f"a slot that was truncated to {place}")

    def test_media_that_were_seen_before(self, engine: MediaUnderTest) -> None:
        """What an engine keeps of media for a sharer changes no logits: those of media seen before, of others, and of another sharer's."""
        info = engine.engine.info
        assert info.media_bytes >= 0, f"EngineInfo.media_bytes is {info.media_bytes}; it is a number of bytes."
        prompts = [engine.prompt(text, self.make_media(seed), [4, 5]) for text, seed in (([1, 2], 0), ([3], 1), ([6, 7, 8], 0))]
        expected = [engine.alone(prompt) for prompt in prompts]
        for sharer, index in (("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 0)):
            prompt, slot = prompts[index], engine.open()
            placed, size = prompt.media[0], len(prompt.tokens)
            cut = placed.start if engine.whole else (placed.start + placed.end + 1) // 2
            parts = [engine.step(prompt.row(slot, *ends, sharer=sharer))[0] for ends in ((0, cut), (cut, size))]
            engine.agree(np.concatenate(parts), expected[index], f"prompt {index} of sharer {sharer}")
            engine.close_all()

    def test_wrong_rows_change_nothing(self, engine: MediaUnderTest) -> None:
        """Virtual tokens without their media are refused, as are media that are cut where they must not; the slot is as it was."""
        prompt = engine.prompt([1, 2], self.make_media(0), [3, 4])
        expected, (placed,) = engine.alone(prompt), prompt.media
        wrong = [attrs.evolve(prompt.row(0, 0, placed.end), media=())]
        if engine.whole and placed.length > 1:
            wrong.append(prompt.row(0, 0, placed.end - 1))
        slot = engine.open()
        for row in wrong:
            with pytest.raises((LLMasOSError, ValueError)):
                engine.engine.step([attrs.evolve(row, slot=slot)])
            engine.engine.truncate(slot, 0)
        engine.agree(engine.step(prompt.row(slot, 0, len(prompt.tokens)))[0], expected, "a prompt after rows that were refused")
