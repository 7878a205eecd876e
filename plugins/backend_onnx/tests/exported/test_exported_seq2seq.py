"""Encoder-decoders in optimum's three graphs: the kit, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from plugins.backend_onnx.tests.exported.seq2seq_exports import export

import llmasos
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.seq2seq.loading import load_seq2seq
from llmasos_hookspecs import SOURCE, CheckpointError, EngineLimits, Media, PlacedMedia, Row, UnsupportedModel, virtual_tokens
from llmasos_hookspecs.testing import EncoderDecoderConformance, ReferenceEncoderDecoder, tiny_encoder_decoder
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext
from llmasos_hookspecs.testing.tokenizer import BOS


class TestEncoderDecoders(EncoderDecoderConformance):
    module = "llmasos_backend_onnx"
    cases: ClassVar = ("t5-gated", "marian")
    tolerance = 1e-4

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        return export(case, folder)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[str], llmasos.LanguageModel]]:
    """A loaded export of a case."""
    models: list[llmasos.LanguageModel] = []

    def load(case: str) -> llmasos.LanguageModel:
        export(case, tmp_path / case)
        models.append(llmasos.load_model(str(tmp_path / case), scheduler={"use": "fifo", "max_sequences": 24}))
        return models[-1]

    yield load
    for model in models:
        model.close()


@pytest.mark.parametrize("case", ["t5", "marian"])
def test_an_export_answers_as_the_reference(case: str, running: Callable[[str], Any]) -> None:
    """Greedy tokens of 24 sources of mixed lengths, in one batch and alone; the same source comes from the prefix cache."""
    model, reference = running(case), ReferenceEncoderDecoder(tiny_encoder_decoder(case))
    sources = ["".join(chr(97 + (7 * index + place) % 26) for place in range(1 + 59 * index // 23)) for index in range(24)]
    together = [list(each.tokens) for each in model.batch(sources, max_new_tokens=5, ignore_eos=True)]
    for source, tokens in zip(sources, together, strict=True):
        target = [BOS, *tokens]
        right = reference.logits(list(source.encode()), target[:-1])
        assert [int(row.argmax()) for row in right] == tokens
    again = model.generate(sources[-1], max_new_tokens=5, ignore_eos=True)
    assert list(again.tokens) == together[-1]
    assert again.cached_tokens == len(sources[-1])
    assert np.allclose(model.logits([BOS, 70], source="xyz"), reference.logits(list(b"xyz"), [BOS, 70]), atol=1e-4)


def test_a_source_is_encoded_once_for_each_tenant(tmp_path: Path) -> None:
    """The encoder's graph runs again for another sharer, and for a row that shares with nobody; nothing is left after a shutdown."""
    checkpoint = export("marian", tmp_path / "model")
    engine: Any = load_seq2seq(checkpoint, Options(), SandboxContext(root=tmp_path, limits=EngineLimits(threads=1, max_sequences=2)))
    ran: list[int] = []
    run = engine._run
    engine._run = lambda graph, outputs, given: ran.append(graph) or run(graph, outputs, given)
    media = Media.of(SOURCE, np.arange(60, 69))
    tokens = virtual_tokens(media, 9, engine.info.vocab_size)
    right = ReferenceEncoderDecoder(tiny_encoder_decoder("marian")).logits(media.data.tolist(), [BOS])
    for sharer in ("a", "a", "b", "a", "", ""):
        slot = engine.open()
        (found,) = engine.step([Row(slot, [*tokens, BOS], 0, "last", media=(PlacedMedia(media, 0, 9, whole=True),), sharer=sharer)])
        assert np.allclose(found, right, atol=1e-4)
        engine.close(slot)
    assert ran.count(0) == 4
    assert 0 < engine._encoded.used <= engine.info.media_bytes
    engine.shutdown()
    assert engine._encoded.used == 0


def _merged(folder: Path) -> None:
    (folder / "decoder_with_past_model.onnx").rename(folder / "decoder_model_merged.onnx")


def _renamed(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / name)
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            node.input[:] = [new if each == old else each for each in node.input]
            node.output[:] = [new if each == old else each for each in node.output]
        onnx.save(model, folder / name)

    return change


def _linked(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / "encoder_model.onnx").rename(outside)
    os.symlink(outside, folder / "encoder_model.onnx")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_merged, UnsupportedModel, "no-post-process"),
        (lambda folder: (folder / "decoder_model.onnx").unlink(), CheckpointError, "lacks the file 'decoder_model.onnx'"),
        (lambda folder: (folder / "encoder_model.onnx").write_bytes(b"no graph"), CheckpointError, "no ONNX model"),
        (_linked, CheckpointError, "leads outside its folder"),
        (_renamed("encoder_model.onnx", "input_ids", "pixel_values"), UnsupportedModel, "encoder-decoder of text"),
        (_renamed("decoder_model.onnx", "present.1.encoder.key", "kept"), UnsupportedModel, "lacks present.1.encoder.key"),
        (_renamed("decoder_with_past_model.onnx", "past_key_values.0.decoder.key", "past"), UnsupportedModel, "optimum's names"),
    ],
    ids=["merged", "missing", "no graph", "link", "images", "cache", "names"],
)
def test_other_exports_are_refused(change: Callable[[Path], None], kind: type[Exception], said: str, tmp_path: Path) -> None:
    """In one sentence, before anything is computed."""
    export("t5", tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(kind, match=said), llmasos.load_model(str(tmp_path / "model"), loader="onnx") as model:
        model.generate_text("Hello")
