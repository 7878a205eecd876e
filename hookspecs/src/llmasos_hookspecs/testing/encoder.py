"""Conformance tests of loaders that make encoders."""

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
from llmasos_hookspecs.encoder import Encoder, EncoderRow
from llmasos_hookspecs.errors import CheckpointError, LLMasOSError, ResourceError
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.loader_cases import LIMITS
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.reference_encoder import ReferenceEncoder, tiny_encoder
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

Vectors = npt.NDArray[np.float32]


class EncoderConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves the encoders of its loader on a tiny random BERT::

        class TestEncoders(EncoderConformance):
            module = "llmasos_backend_mine"

    A loader that makes engines too is also proven by ``LoaderConformance``.

    Attributes:
        tolerance: largest difference from the reference, whose numbers are about 1.
        consistency: largest difference between a text that is encoded alone and with others.
    """

    kind = "loader"
    tolerance: ClassVar[float] = 1e-4
    consistency: ClassVar[float] = 1e-5

    @classmethod
    def make_checkpoint(cls, folder: Path) -> TinyCheckpoint:
        """The checkpoint; override it to hand the loader the same model in a format of its own."""
        return tiny_encoder().write(folder)

    @classmethod
    def load(cls, sandbox: PluginSandbox, checkpoint: Checkpoint, root: Path, limits: EngineLimits = LIMITS) -> Encoder:
        """The encoder that the loader makes of a checkpoint."""
        context = SandboxContext(root=root, limits=limits)
        encoder: Encoder = sandbox.call("llmasos_load", checkpoint=checkpoint, options=cls.plugin_options(sandbox), context=context)
        return encoder

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, sandbox: PluginSandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
        """One encoder, shared by the tests."""
        root = tmp_path_factory.mktemp("encoder")
        encoder = cls.load(sandbox, cls.make_checkpoint(root / "model"), root)
        yield encoder
        encoder.shutdown()

    def test_info_of_the_encoder_is_true(self, encoder: Encoder) -> None:
        """``EncoderInfo`` agrees with the checkpoint, and ``takes`` with what was loaded."""
        info, config = encoder.info, tiny_encoder().config
        assert isinstance(encoder, Encoder), "The encoder lacks a method of the Encoder protocol."
        assert (info.dimensions, info.vocab_size) == (config["hidden_size"], config["vocab_size"])
        assert 0 < info.context_length <= config["max_position_embeddings"]
        assert info.max_batch_tokens >= info.context_length, "A batch must hold one text of the greatest length."
        assert info.weight_bytes > 0
        assert info.batch_bytes >= 0
        assert info.features & {"embed", "rank"}, "An encoder embeds or ranks."
        assert all(isinstance(note, str) and note for note in info.notes)

    def test_vectors_are_those_of_the_reference(self, encoder: Encoder) -> None:
        """One text at a time, of unlike lengths."""
        for length in (1, 2, 7, 31):
            row = _row(length, seed=length)
            self.agree(self.encode(encoder, [row]), _expected([row], encoder), f"a text of {length} tokens")

    def test_texts_of_a_batch_do_not_change_one_another(self, encoder: Encoder) -> None:
        """Texts of unlike lengths together give what each gives alone, in their own order."""
        rows = [_row(length, seed=place) for place, length in enumerate((5, 31, 1, 12, 5, 20))]
        together = self.encode(encoder, rows)
        alone = np.concatenate([self.encode(encoder, [row]) for row in rows])
        worst = float(np.abs(together - alone).max())
        assert worst <= self.consistency, f"A text in a batch differs by {worst:.3g} from the same text alone."
        self.agree(together, _expected(rows, encoder), "a batch")

    def test_a_batch_as_large_as_the_encoder_says_is_encoded(self, encoder: Encoder) -> None:
        """``max_batch_tokens`` tokens in texts of the greatest length, and in many short ones."""
        info = encoder.info
        most = min(info.max_batch_tokens, 4096)
        for length in (info.context_length, 3):
            row = _row(length, seed=9)
            found = self.encode(encoder, [row] * (most // length))
            self.agree(found[-1:], _expected([row], encoder), "the last text of a full batch")

    def test_segments_of_a_pair_are_seen(self, encoder: Encoder) -> None:
        """The types of tokens reach the model."""
        plain = _row(8, seed=4)
        pair = attrs.evolve(plain, types=[0] * 5 + [1] * 3)
        found = self.encode(encoder, [pair, plain])
        self.agree(found, _expected([pair, plain], encoder), "a pair and the same tokens as one text")

    def test_results_stay_what_they_were(self, encoder: Encoder) -> None:
        """A later call does not overwrite the results of an earlier one."""
        first = encoder.encode([_row(6, seed=1)])
        kept = first.copy()
        encoder.encode([_row(6, seed=2)])
        assert np.array_equal(first, kept), "The array that encode returned was changed by the next call."

    @pytest.mark.parametrize("wrong", ["empty", "too long", "unknown token", "negative token"])
    def test_wrong_rows_of_texts_are_refused(self, encoder: Encoder, wrong: str) -> None:
        """With ``ValueError`` or an ``LLMasOSError``; the encoder works on."""
        info = encoder.info
        tokens = {"empty": [], "too long": [1] * (info.context_length + 1), "unknown token": [info.vocab_size], "negative token": [-1]}
        with pytest.raises((ValueError, LLMasOSError)):
            encoder.encode([_row(3, seed=1), EncoderRow(tokens[wrong])])
        row = _row(3, seed=1)
        self.agree(self.encode(encoder, [row]), _expected([row], encoder), "a text after a row that was refused")

    def test_shutdown_of_an_encoder_twice(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Calling ``shutdown`` again does nothing; another encoder of the same checkpoint works on."""
        checkpoint = self.make_checkpoint(tmp_path / "model")
        one, two = self.load(sandbox, checkpoint, tmp_path), self.load(sandbox, checkpoint, tmp_path)
        one.shutdown()
        one.shutdown()
        row = _row(4, seed=3)
        self.agree(self.encode(two, [row]), _expected([row], two), "an encoder beside one that was shut down")
        two.shutdown()

    def test_memory_is_a_limit_of_encoders(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Within a memory budget weights and a batch fit together; where they cannot, ``ResourceError`` says so."""
        checkpoint = self.make_checkpoint(tmp_path / "model")
        for memory in (8 * 2**10, 2 * 2**20, 64 * 2**20):
            try:
                encoder = self.load(sandbox, checkpoint, tmp_path, EngineLimits(threads=1, memory=memory))
            except ResourceError:
                assert memory < 64 * 2**20, "64 MiB are enough for the tiny checkpoint, and the loader refused them."
                continue
            info = encoder.info
            encoder.shutdown()
            used = info.weight_bytes + info.batch_bytes
            assert used <= memory, f"Of a budget of {memory} bytes the encoder takes {used}; raise ResourceError, or take smaller batches."

    @pytest.mark.parametrize("damage", ["missing", "shape"])
    def test_a_damaged_encoder_is_refused(self, sandbox: PluginSandbox, tmp_path: Path, damage: str) -> None:
        """A tensor that is missing or has the wrong shape is a ``CheckpointError`` that names it."""
        if "huggingface" not in sandbox.component.formats:
            pytest.skip("The loader takes no named tensors.")
        whole = tiny_encoder()
        name = "encoder.layer.1.attention.self.key.weight"
        tensors: dict[str, Any] = dict(whole.tensors)
        bad = tensors.pop(name)
        if damage == "shape":
            tensors[name] = bad[:, :-2]
        broken = attrs.evolve(whole, tensors=tensors).write(tmp_path / "model")
        with pytest.raises(CheckpointError) as caught:
            self.load(sandbox, broken, tmp_path)
        assert "key" in str(caught.value), f"The error does not name the tensor {name}: {caught.value}"

    @staticmethod
    def encode(encoder: Encoder, rows: Sequence[EncoderRow]) -> Vectors:
        """The vectors of rows, checked for form."""
        found: Any = encoder.encode(rows)
        wanted = (len(rows), encoder.info.dimensions)
        assert isinstance(found, np.ndarray), f"encode returned {type(found).__name__}, and it must return a numpy array."
        assert found.dtype == np.float32, f"Vectors are {found.dtype}, and they must be float32."
        assert found.shape == wanted, f"encode of {len(rows)} rows gave the shape {found.shape}; it must be {wanted}."
        assert np.isfinite(found).all(), "Vectors are not finite."
        return found

    @classmethod
    def agree(cls, found: Vectors, wanted: Vectors, what: str) -> None:
        """Fail where vectors are further from the reference's than ``tolerance``."""
        worst = float(np.abs(found - wanted).max())
        assert worst <= cls.tolerance, f"The vectors of {what} differ by {worst:.3g} from the reference's; {cls.tolerance:g} is allowed."


def _row(length: int, seed: int) -> EncoderRow:
    """Random tokens, the same for the same arguments."""
    return EncoderRow([int(token) for token in np.random.default_rng(seed).integers(0, 288, length)])


def _expected(rows: Sequence[EncoderRow], encoder: Encoder) -> Vectors:
    """The reference's vectors, pooled as the encoder says."""
    reference, found = ReferenceEncoder(tiny_encoder()), []
    for row in rows:
        hidden = reference.hidden(row)
        ways = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1], "max": hidden.max(axis=0)}
        assert encoder.info.pooling in ways, f"The pooling {encoder.info.pooling!r} is none that these tests know; load with another."
        found.append(ways[encoder.info.pooling])
    return np.array(found, dtype=np.float32)
