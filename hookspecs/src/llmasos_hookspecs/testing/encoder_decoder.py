"""Conformance tests of loaders that take encoder-decoders, and of their engines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import MediaEngine, Row
from llmasos_hookspecs.errors import ContextLengthExceeded, LLMasOSError, RequestError, UnsupportedModel
from llmasos_hookspecs.media import SOURCE, Media, PlacedMedia, virtual_tokens
from llmasos_hookspecs.testing.encoder_decoder_model import ENCODER_DECODER_CASES, ReferenceEncoderDecoder, tiny_encoder_decoder
from llmasos_hookspecs.testing.engine_under_test import TOLERANCES
from llmasos_hookspecs.testing.held_slots import HeldSlots
from llmasos_hookspecs.testing.plugin import PluginConformance, found_once
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.tokenizer import BOS

Logits = npt.NDArray[np.float32]

_LIMITS = EngineLimits(threads=1, max_sequences=4, context_length=96)


class EncoderDecoderUnderTest(HeldSlots[MediaEngine]):
    """An engine, the reference of its checkpoint, and the slots that a test opened."""

    def __init__(self, engine: MediaEngine, reference: ReferenceEncoderDecoder, tolerance: float | None) -> None:
        super().__init__(engine)
        self.reference = reference
        self.tolerance = TOLERANCES.get(engine.info.dtype, 0.1) if tolerance is None else tolerance

    def numbers(self, length: int, seed: int) -> list[int]:
        """Random tokens, the same for the same arguments."""
        return [int(token) for token in np.random.default_rng(seed).integers(0, 256, length)]

    def placed(self, source: Sequence[int]) -> tuple[list[int], tuple[PlacedMedia, ...]]:
        """The virtual tokens of a source, and its place."""
        info, media = self.engine.info, Media.of(SOURCE, np.array(source, np.int64))
        return virtual_tokens(media, len(source), info.vocab_size, info.preprocessing), (PlacedMedia(media, 0, len(source), whole=True),)

    def read(self, slot: int, source: Sequence[int], *target: int, sharer: str = "") -> Logits:
        """Compute a source, and the first tokens of its target in the same row; the last logits."""
        tokens, media = self.placed(source)
        (result,) = self.step(Row(slot, [*tokens, *target], 0, "last" if target else "none", media=media, sharer=sharer))
        return result

    def step(self, *rows: Row) -> list[Logits]:
        """One step, its results checked for form and copied."""
        results = self.engine.step(rows)
        assert len(results) == len(rows), f"step returned {len(results)} arrays for {len(rows)} rows."
        for row, result in zip(rows, results, strict=True):
            shape = ({"all": len(row.tokens), "last": 1, "none": 0}[row.want], self.engine.info.vocab_size)
            assert result.shape == shape, f"want={row.want!r} for {len(row.tokens)} tokens gave {result.shape}; it must give {shape}."
            assert result.dtype == np.float32, f"Logits are {result.dtype}, and they must be float32."
        return [np.array(result) for result in results]

    def agree(self, got: Logits, source: Sequence[int], target: Sequence[int], what: str) -> None:
        """Fail where ``got`` differs from the last of the reference's logits of the target by more than rounding."""
        expected = self.reference.logits(source, target)[-len(got) :]
        errors = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        worst = int(errors.argmax())
        assert errors[worst] <= self.tolerance, (
            f"{what}: token {worst} of {len(errors)} has a relative error of {errors[worst]:.3g}, over {self.tolerance:g}."
        )


def _takes_all(checkpoint: Checkpoint) -> None:
    """``Component.takes`` of a loader that has none."""


class EncoderDecoderConformance(PluginConformance, standard=True):
    """Subclass it beside ``LoaderConformance`` where a loader takes encoder-decoders::

        class TestEncoderDecoders(EncoderDecoderConformance):
            module = "llmasos_backend_mine"

    Attributes:
        cases: names of ``ENCODER_DECODER_CASES`` to load; None: all that ``Component.takes`` accepts.
        tolerance: largest relative error against the reference; None: by the engine's dtype.
    """

    kind = "loader"
    cases: ClassVar[Sequence[str] | None] = None
    tolerance: ClassVar[float | None] = None

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> Checkpoint:
        """The checkpoint of a case; override it to hand the loader the same model in a format of its own."""
        return tiny_encoder_decoder(case, folder=folder)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run engine tests once a case."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", found_once(type(self), self.covered_cases), scope="class")

    @classmethod
    def covered_cases(cls) -> list[str]:
        """The cases that the loader declares to take."""
        if cls.cases is not None:
            return list(cls.cases)
        takes = cls.load_plugin().component.takes or _takes_all
        found = []
        for case in ENCODER_DECODER_CASES:
            with contextlib.suppress(UnsupportedModel):
                found += [case] if takes(tiny_encoder_decoder(case)) is None else []
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, sandbox: PluginSandbox, case: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncoderDecoderUnderTest]:
        """One engine a case, shared by the tests."""
        root = tmp_path_factory.mktemp("loader")
        checkpoint = cls.make_checkpoint(case, root / "model")
        context = SandboxContext(root=root, limits=_LIMITS)
        engine: Any = sandbox.call("llmasos_load", checkpoint=checkpoint, options=cls.plugin_options(sandbox), context=context)
        yield EncoderDecoderUnderTest(engine, ReferenceEncoderDecoder(tiny_encoder_decoder(case)), cls.tolerance)
        engine.shutdown()

    @pytest.fixture
    def engine(self, loaded: EncoderDecoderUnderTest) -> Iterator[EncoderDecoderUnderTest]:
        """The engine with every slot closed again afterwards."""
        yield loaded
        loaded.close_all()

    def test_info_is_true(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """The engine says that it attends to a source, and has room for a target besides the longest one."""
        info = engine.engine.info
        assert isinstance(engine.engine, MediaEngine), "The engine lacks a method of the MediaEngine protocol."
        assert "source" in info.features, 'An encoder-decoder has the feature "source".'
        assert info.vocab_size == ENCODER_DECODER_CASES[case]["vocab_size"]
        assert 1 <= info.source_length < info.context_length
        assert info.kv_bytes_per_token > 0 or "kv_cache" not in info.features

    def test_media_are_measured_by_their_shape(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """A source takes a position for each token; one that is too long, of another kind or another form is refused."""
        info = engine.engine.info
        assert engine.engine.media_length(Media.of(SOURCE, np.arange(7))) == 7
        with pytest.raises(ContextLengthExceeded):
            engine.engine.media_length(Media.of(SOURCE, np.zeros(info.source_length + 1, np.int64)))
        for media in (Media.of("image", np.arange(7)), Media.of(SOURCE, np.ones(3)), Media.of(SOURCE, np.ones((2, 2), np.int64))):
            with pytest.raises(RequestError):
                engine.engine.media_length(media)

    def test_a_target_in_one_row(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """A source in a row of its own, then its target: the reference's logits at every token of the target."""
        source, target = engine.numbers(23, 1), [BOS, *engine.numbers(30, 2)]
        slot = engine.open()
        engine.read(slot, source)
        engine.agree(engine.step(Row(slot, target, 23, "all"))[0], source, target, "a target in one row")

    def test_a_source_and_its_target_in_one_row(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """The first tokens of a target may come in the row of their source; those after them continue it."""
        source, target = engine.numbers(11, 3), [BOS, *engine.numbers(9, 4)]
        slot = engine.open()
        engine.agree(engine.read(slot, source, *target[:3]), source, target[:3], "a source with three tokens of its target")
        engine.agree(engine.step(Row(slot, target[3:], 14, "all"))[0], source, target, "the rest of the target")

    def test_token_by_token(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """Decoding one token a step gives the logits of the whole target."""
        source, target = engine.numbers(17, 5), [BOS, *engine.numbers(24, 6)]
        slot = engine.open()
        engine.read(slot, source)
        for at, token in enumerate(target):
            (got,) = engine.step(Row(slot, [token], 17 + at, generated=at > 0))
            engine.agree(got, source, target[: at + 1], f"token {at} by itself")

    def test_sources_of_mixed_lengths_in_one_batch(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """Each sequence attends to its own source, all of it and nothing else, whatever is in the batch with it."""
        count = min(4, engine.engine.info.max_sequences)
        sources = [engine.numbers(length, 7) for length in (3, 40, 1, 12)[:count]]
        targets = [[BOS, *engine.numbers(6, 20 + index)] for index in range(count)]
        slots = [engine.open() for _ in sources]
        placed = [engine.placed(source) for source in sources]
        rows = [Row(slot, [*tokens, BOS], 0, media=media) for slot, (tokens, media) in zip(slots, placed, strict=True)]
        got = engine.step(*rows)
        for at in range(7):
            for index, source in enumerate(sources):
                engine.agree(got[index], source, targets[index][: at + 1], f"source {index} of {count}, token {at}")
            if at < 6:
                got = engine.step(*(Row(slot, [targets[index][at + 1]], len(sources[index]) + at + 1) for index, slot in enumerate(slots)))

    def test_a_source_beside_decoding(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """A step reads a new source while other sequences decode."""
        if engine.engine.info.max_sequences < 2:
            pytest.skip("The engine holds one sequence.")
        first, second = engine.numbers(9, 8), engine.numbers(21, 9)
        one, two = engine.open(), engine.open()
        engine.read(one, first, BOS)
        tokens, media = engine.placed(second)
        got = engine.step(Row(one, [65], 10), Row(two, [*tokens, BOS], 0, media=media))
        engine.agree(got[0], first, [BOS, 65], "decoding beside a new source")
        engine.agree(got[1], second, [BOS], "a new source beside decoding")

    def test_fork(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """A fork has source and target of its origin; neither changes with the other, nor ends with it."""
        if "fork" not in engine.engine.info.features or engine.engine.info.max_sequences < 2:
            pytest.skip("The engine cannot fork.")
        source, target = engine.numbers(13, 10), [BOS, 70, 71, 72]
        origin = engine.open()
        engine.read(origin, source, *target[:2])
        copy = engine.fork(origin)
        engine.step(Row(origin, [99, 98], 15, "none"))
        engine.agree(engine.step(Row(copy, target[2:], 15, "all"))[0], source, target, "a fork")
        engine.engine.truncate(origin, 0)
        engine.read(origin, engine.numbers(30, 11), BOS)
        engine.engine.truncate(copy, 14)
        engine.agree(engine.step(Row(copy, target[1:], 14, "all"))[0], source, target, "a fork after its origin read another source")

    def test_truncate(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """Truncated to the end of its source a slot keeps that, for another target; truncated to 0 it reads another source."""
        source, target = engine.numbers(13, 12), [BOS, 80, 81]
        slot = engine.open()
        engine.read(slot, source, BOS, 99, 98, 97)
        engine.engine.truncate(slot, 13)
        engine.agree(engine.step(Row(slot, target, 13, "all"))[0], source, target, "another target of the same source")
        engine.engine.truncate(slot, 0)
        other = engine.numbers(5, 13)
        engine.agree(engine.read(slot, other, *target), other, target, "another source in the same slot")

    def test_a_source_that_was_seen_before(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """What an engine keeps of sources for a sharer changes no logits: of a source seen before, of others, of another sharer's."""
        assert engine.engine.info.media_bytes >= 0, "EngineInfo.media_bytes is a number of bytes."
        sources = [engine.numbers(9, seed) for seed in (15, 16)]
        for sharer, index in (("a", 0), ("a", 1), ("a", 0), ("b", 1), ("b", 0)):
            got = engine.read(engine.open(), sources[index], BOS, 70 + index, sharer=sharer)
            engine.agree(got, sources[index], [BOS, 70 + index], f"source {index} of sharer {sharer}")
            engine.close_all()

    def test_wrong_rows_change_nothing(self, engine: EncoderDecoderUnderTest, case: str) -> None:
        """A row without a source, with half of one, or with a token that is none is refused, and the slot is as it was."""
        info, source = engine.engine.info, engine.numbers(8, 14)
        tokens, media = engine.placed(source)
        bad = engine.placed([5, info.vocab_size + 5])
        slot = engine.open()
        for row in (
            Row(slot, [BOS, 66], 0),
            Row(slot, tokens[:4], 0, "none", media=media),
            Row(slot, tokens, 0, "last", media=media),
            Row(slot, bad[0], 0, "none", media=bad[1]),
        ):
            with pytest.raises((LLMasOSError, ValueError)):
                engine.engine.step([row])
            engine.engine.truncate(slot, 0)
        engine.agree(engine.read(slot, source, BOS), source, [BOS], "a source after rows that were refused")
        with pytest.raises((LLMasOSError, ValueError)):
            engine.engine.step([Row(slot, [info.vocab_size], 9)])
        engine.engine.truncate(slot, 9)
        engine.agree(engine.step(Row(slot, [67], 9))[0], source, [BOS, 67], "a token after one that was refused")
