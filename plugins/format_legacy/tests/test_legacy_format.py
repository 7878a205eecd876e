"""Pickled weights and tokenizers from before tokenizer.json: what every format must do, where they are read, and where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import ByteLevelBPETokenizer

from llmasos.compose.formats import formats, open_model
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_hookspecs import Checkpoint, CheckpointError
from llmasos_hookspecs.testing import FormatConformance
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext


class TestConformance(FormatConformance):
    """Pickled weights, which a user allowed."""

    module = "llmasos_format_legacy"

    def make_model(self, checkpoint: TinyCheckpoint, folder: Path) -> Path:
        model = folder / "model"
        checkpoint.write(model)
        (model / "model.safetensors").unlink()
        torch.save({name: torch.from_numpy(array.copy()) for name, array in checkpoint.tensors.items()}, model / "pytorch_model.bin")
        return model

    def open(self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, path: Path) -> Checkpoint | None:
        context.allow_pickle = True
        return super().open(sandbox, context, original, path)


class Without(Registry):
    """What is installed, but for one format."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def entries(self, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        return tuple(entry for entry in super().entries(kind) if (entry.kind, entry.name) != ("format", self._name))


@pytest.fixture
def pickled(tmp_path: Path, tiny_model: Any) -> Path:
    """A tiny llama in bfloat16, pickled."""
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.to(torch.bfloat16).state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


def test_pickles_are_read_where_they_are_allowed_and_hold_only_tensors(pickled: Path, tiny_model: Any) -> None:
    model = tiny_model("llama")
    checkpoint = open_model(pickled, allow_pickle=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(
        np.asarray(checkpoint.tensor(name)).astype(np.float32), model.state_dict()[name].bfloat16().float().numpy()
    )
    assert len(checkpoint.digest) == 64
    torch.save({"a": print}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        open_model(pickled, allow_pickle=True)


def test_pickles_are_refused_unless_they_are_allowed(pickled: Path) -> None:
    """In one sentence that says what would allow them."""
    with pytest.raises(CheckpointError, match=r"pickle files, which can run code when read; get the .* or set allow_pickle"):
        open_model(pickled)


def test_safetensors_are_read_rather_than_pickles_beside_them(saved: Any) -> None:
    """Nothing is unpickled where the same folder needs none of it."""
    folder = saved("llama")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert open_model(folder, allow_pickle=True).names()


def _sentencepiece(folder: Path) -> Any:
    """A tokenizer.model beside the weights, and the library's own reading of it."""
    lines = (line for name in sorted(topics)[:20] for line in topics[name].splitlines() if line.strip())
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=file, vocab_size=400, model_type="bpe", byte_fallback=True, minloglevel=2
        )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_folder_of_safetensors_with_a_tokenizer_model_is_core_s_and_its_tokenizer_the_format_s(saved: Any) -> None:
    """Any weights go with any tokenizer: the reader of the one does not know the other's."""
    folder = saved("llama")
    library = _sentencepiece(folder)
    tokenizer = open_model(folder).tokenizer()
    assert tokenizer.encode("The quick brown fox", special=False) == library.encode("The quick brown fox")
    assert tokenizer.decode(tokenizer.encode("今天 x")) == "今天 x"


def test_pickled_weights_with_a_tokenizer_model_need_one_format(pickled: Path) -> None:
    """The old folder as a whole."""
    library = _sentencepiece(pickled)
    assert open_model(pickled, allow_pickle=True).tokenizer().encode("brown fox", special=False) == library.encode("brown fox")


def test_an_export_with_a_vocabulary_and_merges_has_their_tokens(tmp_path: Path) -> None:
    """The weights of an export are a loader's, and its tokenizer is read all the same."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([topics["strings"]] * 2, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save_model(str(tmp_path))
    (tmp_path / "genai_config.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert open_model(tmp_path).tokenizer().encode("a string literal") == trained.encode("a string literal").ids


def test_core_without_the_format_names_the_package(pickled: Path, saved: Any) -> None:
    """For weights and for tokenizers; what needs no tokenizer opens all the same, and a tokenizer.json is core's."""
    registry = Without("legacy")
    sentence = r"which nothing installed here reads; pip install llmasos-format-legacy\.$"
    with pytest.raises(CheckpointError, match=rf"holds pytorch_model\*\.bin, of the format legacy, {sentence}"):
        formats(registry=registry, allow_pickle=True).open(pickled)
    folder = saved("llama")
    (folder / "tokenizer.model").write_bytes(b"x")
    opened = formats(registry=registry).open(folder)
    assert opened.names()
    with pytest.raises(CheckpointError, match=rf"holds tokenizer\.model, of the format legacy, {sentence}"):
        opened.tokenizer()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json, and no other tokenizer that is read; save the model's"):
        opened.tokenizer()
