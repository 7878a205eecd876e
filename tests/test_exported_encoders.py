"""Encoders that other tools exported to ONNX give what transformers gives, and graphs that are no encoders are refused in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tests.tiny_encoders import TEXTS, write_encoder, write_modules
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import llmasos
from llmasos_hookspecs import CheckpointError, ConfigError, LLMasOSError, UnsupportedModel

Vectors = npt.NDArray[np.float32]
BERT = ("input_ids", "attention_mask", "token_type_ids")


class Traced(torch.nn.Module):
    """A model with inputs and outputs in a row: hidden states, and where asked their mean of length 1, as sentence-transformers exports."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.inputs, given, strict=True))
        result = self.model(**named)
        if self.outputs == ("logits",):
            return (result.logits,)
        hidden = result.last_hidden_state
        mask = named["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        return tuple(vectors if name == "sentence_embedding" else hidden for name in self.outputs)


def export(model: Any, path: Path, inputs: tuple[str, ...] = BERT, outputs: tuple[str, ...] = ("last_hidden_state",)) -> None:
    """Write a graph with free axes and without weights beside it, and remove the tensors that it was made of."""
    path.parent.mkdir(exist_ok=True)
    given = tuple(torch.ones(2, 5, dtype=torch.long) for _ in inputs)
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in inputs}
    axes |= {name: {0: "batch_size", **({} if name in ("sentence_embedding", "logits") else {1: "sequence_length"})} for name in outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own, and that this exporter is the older of torch's two
        torch.onnx.export(
            Traced(model, inputs, outputs), given, str(path), input_names=list(inputs), output_names=list(outputs), dynamic_axes=axes,
            dynamo=False, opset_version=17,
        )  # fmt: skip
    for file in path.parent.parent.rglob("model.safetensors"):
        if file.parent in (path.parent, path.parent.parent):
            file.unlink()


def hidden_states(model: Any, folder: Path) -> list[Vectors]:
    """Of each text by transformers, computed alone."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with torch.inference_mode():
        return [model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0].numpy() for text in TEXTS]


def far(found: Any, wanted: Any) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max())


def unit(vectors: Any) -> Any:
    return np.asarray(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)


#: name -> family, file, inputs, outputs.
EXPORTS: Mapping[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "optimum": ("bert", "model.onnx", BERT, ("last_hidden_state",)),
    "in a folder onnx": ("bert", "onnx/model.onnx", BERT, ("last_hidden_state",)),
    "sentence-transformers": ("bert", "onnx/model.onnx", BERT, ("token_embeddings", "sentence_embedding")),
    "without segments": ("distilbert", "model.onnx", BERT[:2], ("last_hidden_state",)),
    "positions from the padding": ("roberta", "model.onnx", BERT[:2], ("last_hidden_state",)),
    "positions that are given": ("roberta", "model.onnx", (*BERT[:2], "position_ids"), ("last_hidden_state",)),
}


#: On each change the one from sentence-transformers lies in that folder.
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name == "in a folder onnx")) for name in EXPORTS])
def test_an_exported_encoder_gives_what_transformers_gives_alone_and_packed(tmp_path: Path, name: str) -> None:
    """Mean pooling of six texts of unlike lengths, in one batch and each by itself, within 1e-5."""
    kind, file, inputs, outputs = EXPORTS[name]
    model = write_encoder(tmp_path, kind, num_hidden_layers=1, n_layers=1, attn_implementation="eager")
    hidden = hidden_states(model, tmp_path)
    export(model, tmp_path / file, inputs, outputs)
    wanted = np.stack([each.mean(0) for each in hidden])
    wanted = unit(wanted) if "sentence_embedding" in outputs else wanted  # such a graph scales them itself
    with llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        assert (ours.describe()["dimensions"], ours.describe()["context_length"]) == (32, 64)
        assert far(ours.embed(TEXTS, normalize=False), wanted) < 1e-5
        assert far(np.concatenate([ours.embed([text], normalize=False) for text in TEXTS]), wanted) < 1e-5


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Vectors]]:
    """An export with tokens' states and a vector, and the hidden states by transformers."""
    folder = tmp_path_factory.mktemp("both")
    model = write_encoder(folder, "bert", num_hidden_layers=1, attn_implementation="eager")
    hidden = hidden_states(model, folder)
    export(model, folder / "onnx" / "model.onnx", outputs=("token_embeddings", "sentence_embedding"))
    return folder, hidden


def test_a_pooling_that_is_asked_for_is_done_over_the_tokens_states(both: tuple[Path, list[Vectors]]) -> None:
    """Also where the graph has a vector of its own, and whether the model is named by its folder or by its file."""
    folder, hidden = both
    for path in (folder, folder / "onnx" / "model.onnx"):
        with llmasos.load_model(str(path), loader={"use": "onnx", "pooling": "cls"}) as ours:
            assert ours.describe()["pooling"] == "cls"
            assert far(ours.embed(TEXTS, normalize=False), [each[0] for each in hidden]) < 1e-5


def test_a_pooling_that_the_graph_has_done_already_cannot_be_changed(both: tuple[Path, list[Vectors]], tmp_path: Path) -> None:
    graph = copied(both[0], tmp_path)
    change(graph, lambda model: model.graph.output.pop(0))
    with (
        pytest.raises(ConfigError, match=r'pooling is "cls", and .*model\.onnx gives one vector for each text'),
        llmasos.load_model(str(tmp_path), loader={"use": "onnx", "pooling": "cls"}) as ours,
    ):
        ours.embed(["w1"])


def test_the_modules_of_a_sentence_transformers_folder_come_after_an_export(tmp_path: Path) -> None:
    """Pooling by the first token, a dense layer, prompts and the folder's length, over the hidden states of the graph: the same as from
    the tensors that the graph was made of."""
    model = write_encoder(tmp_path, "bert", attn_implementation="eager")
    write_modules(tmp_path, {"pooling_mode_cls_token": True}, dense=24, prompts={"query": "w1 w2 "})
    with llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        wanted = ours.embed(TEXTS, "query", truncate=True)
    export(model, tmp_path / "onnx" / "model.onnx")
    with llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        assert (ours.describe()["dimensions"], ours.describe()["context_length"]) == (24, 40)
        assert far(ours.embed(TEXTS, "query", truncate=True), wanted) < 1e-5


def test_an_exported_cross_encoder_ranks_as_transformers_scores(tmp_path: Path) -> None:
    model = write_encoder(
        tmp_path, "bert", AutoModelForSequenceClassification.from_config, num_labels=1, num_hidden_layers=1, attn_implementation="eager"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with torch.inference_mode():
        pairs = [tokenizer("w1 w2", text, return_tensors="pt", return_token_type_ids=True) for text in TEXTS[:5]]
        scores = [float(torch.sigmoid(model(**pair).logits[0, 0])) for pair in pairs]
    export(model, tmp_path / "model.onnx", outputs=("logits",))
    with llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        ranked = ours.rank("w1 w2", TEXTS[:5])
    assert far([each.score for each in ranked], sorted(scores, reverse=True)) < 1e-5


def copied(folder: Path, target: Path) -> Path:
    """A copy to spoil; its graph."""
    for name in ("config.json", "tokenizer.json", "onnx/model.onnx"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes((folder / name).read_bytes())
    return target / "onnx" / "model.onnx"


def change(path: Path, edit: Any) -> None:
    model = onnx.load_model(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def renamed(old: str, new: str) -> Any:
    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = new if name == old else name

    return edit


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def fixed(model: onnx.ModelProto) -> None:
    """The first output becomes one row of numbers, whatever goes in."""
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("Constant", [], ["row"], value=helper.make_tensor("row", TensorProto.FLOAT, [7], [0.0] * 7)))
    model.graph.output.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, [7]))


def several(model: onnx.ModelProto) -> None:
    for place, name in enumerate(("first", "second")):
        model.graph.output[place].name = name
        model.graph.node.append(helper.make_node("Identity", [model.graph.initializer[0].name], [name]))


def misshapen(model: onnx.ModelProto) -> None:
    """The hidden states are asked to have a shape that they cannot have."""
    shape = helper.make_tensor("odd", TensorProto.INT64, [2], [3, 5])
    model.graph.initializer.append(shape)
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Reshape", [name, "odd"], ["sentence_embeddings"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("sentence_embeddings", TensorProto.FLOAT, [3, 5]))


#: name -> what is done to the graph, the error, and what it says.
SPOILED: Mapping[str, tuple[Any, type[LLMasOSError], str]] = {
    "a decoder": (renamed("token_type_ids", "past_key_values.0.key"), UnsupportedModel, "has the input 'past_key_values.0.key'"),
    "no tokens": (renamed("input_ids", "position_ids"), UnsupportedModel, "has no input input_ids"),
    "other outputs": (several, UnsupportedModel, "has the outputs first, second, and one of sentence_embedding, "),
    "another operator": (
        lambda model: model.graph.node.append(helper.make_node("TreeEnsemble", ["input_ids"], ["trees"], domain="ai.onnx.ml")),
        UnsupportedModel, "uses the operators ai.onnx.ml:TreeEnsemble",
    ),
    "weights elsewhere": (outside, CheckpointError, "leads outside its folder"),
    "numbers of no text": (fixed, UnsupportedModel, r"gives numbers of the shape \[7\] for one text of 2 tokens"),
    "a run that fails": (misshapen, UnsupportedModel, "cannot be run on one text of 2 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_foreign_graph_is_refused_in_one_sentence(both: tuple[Path, list[Vectors]], tmp_path: Path, name: str) -> None:
    edit, kind, message = SPOILED[name]
    change(copied(both[0], tmp_path), edit)
    with pytest.raises(kind, match=message) as caught, llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        ours.embed(["w1"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, -40])
def test_a_damaged_graph_is_refused_in_one_sentence(both: tuple[Path, list[Vectors]], tmp_path: Path, cut: int) -> None:
    graph = copied(both[0], tmp_path)
    graph.write_bytes(graph.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.onnx") as caught, llmasos.load_model(str(tmp_path), loader="onnx") as ours:
        ours.embed(["w1"])
    assert "\n" not in str(caught.value)


def test_a_precision_of_an_export_is_refused_by_its_path_in_the_config(both: tuple[Path, list[Vectors]]) -> None:
    with (
        pytest.raises(ConfigError, match="runs as it was stored"),
        llmasos.load_model(str(both[0]), loader={"use": "onnx", "precision": "int8"}) as ours,
    ):
        ours.embed(["w1"])
