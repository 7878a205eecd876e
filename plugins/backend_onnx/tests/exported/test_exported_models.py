"""An exported decoder is a model like any other: loaded by its folder, with the folder's tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmasos
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.testing import ReferenceDecoder, TinyCheckpoint

from .conftest import Style, write_export, write_genai


def test_a_folder_generates_what_the_exported_model_does(llama: TinyCheckpoint, tmp_path: Path) -> None:
    """From a merged graph in a folder onnx, that graph by name, and a folder for onnxruntime-genai: the reference's greedy tokens."""
    merged = write_export(llama, tmp_path / "merged", Style(form="merged"))
    genai = write_genai(llama, tmp_path / "genai")
    prompt = "A fox, 一只狐狸"
    with llmasos.load_model(str(merged), loader="onnx") as model:
        tokens = model.tokenizer.encode(prompt)
    expected = ReferenceDecoder(llama).greedy(tokens, 12)
    for path in (merged, merged / "onnx" / "decoder_model_merged.onnx", genai):
        with llmasos.load_model(str(path), loader="onnx") as model:
            stops = model.tokenizer.eos_token_ids
            ended = next((place for place, token in enumerate(expected) if token in stops), len(expected))
            assert model.generate_text(prompt, max_new_tokens=12, temperature=0) == model.tokenizer.decode(expected[:ended])


def test_chat_goes_through_the_folders_template(llama: TinyCheckpoint, tmp_path: Path) -> None:
    folder = write_genai(llama, tmp_path / "genai")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}:")
    with llmasos.load_model(str(folder), loader="onnx") as model:
        chatted = model.chat([{"role": "user", "content": "Hello"}], max_new_tokens=8, temperature=0)
        assert chatted == model.generate_text("<user>Hello:", max_new_tokens=8, temperature=0)


def test_a_precision_is_refused_by_its_path_in_the_config(llama: TinyCheckpoint, tmp_path: Path) -> None:
    folder = write_export(llama, tmp_path / "model", Style())
    with (
        pytest.raises(ConfigError, match="runs as it was stored"),
        llmasos.load_model(str(folder), loader={"use": "onnx", "precision": "int8"}) as model,
    ):
        model.generate_text("x", max_new_tokens=1)
