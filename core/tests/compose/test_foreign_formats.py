"""Models exported by other tools find their texts, and the loader that takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.compose.formats import open_model
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_chat_templates.template import ChatTemplate
from llmasos_hookspecs import UnsupportedModel
from llmasos_hookspecs.testing import tiny_checkpoint

TAKERS = {
    "saved_model.pb": ("saved_model", "llmasos-backend-tf"),
    "model.keras": ("keras", "llmasos-backend-tf"),
    "model.pt2": ("torch_export", "llmasos-backend-torch"),
}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A model's folder without its weights."""
    folder = tmp_path / "model"
    tiny_checkpoint("llama").write(folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def export(texts: Path) -> Path:
    """A repository as Hugging Face has many: texts above, graphs in a folder onnx."""
    folder = texts
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model_q4.onnx", "model_q4.onnx_data"):
        (folder / "onnx" / name).write_text(name)
    return folder


def test_one_of_several_graphs_has_the_texts_above_it(export: Path) -> None:
    checkpoint = open_model(export / "onnx" / "model_q4.onnx")
    assert (checkpoint.format, checkpoint.config["model_type"]) == ("onnx", "llama")
    assert checkpoint.tokenizer().decode(checkpoint.tokenizer().encode("a b")) == "a b"
    template = ChatTemplate.of(checkpoint)
    assert template is not None
    assert template.render([{"role": "user", "content": "Hello"}]) == "Hello"


def test_the_digest_of_a_graph_follows_its_data_and_no_other_graph(export: Path) -> None:
    graphs = export / "onnx"
    before = open_model(graphs / "model_q4.onnx").digest
    (graphs / "model.onnx").write_text("another")
    assert open_model(graphs / "model_q4.onnx").digest == before
    (graphs / "model_q4.onnx_data").write_text("another")
    assert open_model(graphs / "model_q4.onnx").digest != before


def test_a_genai_folder_ends_where_its_own_config_says(export: Path) -> None:
    (export / "config.json").unlink()
    own = open_model(export).tokenizer().eos_token_ids
    (export / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": [7, 9]}}))
    assert open_model(export).tokenizer().eos_token_ids == {*own, 7, 9}


@pytest.mark.parametrize("file", TAKERS)
def test_a_format_that_no_installed_loader_takes_names_the_package_that_does(
    file: str, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (texts / file).write_text("x")
    entries = Registry.entries

    def only_onnx(registry: Registry, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        return tuple(entry for entry in entries(registry, kind) if entry.kind != "loader" or entry.name == "onnx")

    monkeypatch.setattr(Registry, "entries", only_onnx)
    form, package = TAKERS[file]
    for loader in ("auto", "onnx"):
        pipeline = Pipeline.from_config({"model": {"source": str(texts)}, "loader": {"use": loader}})
        with pipeline, pytest.raises(UnsupportedModel, match=f"is {form}.*; pip install {package}, which does"):
            pipeline.model.generate_text("x")
