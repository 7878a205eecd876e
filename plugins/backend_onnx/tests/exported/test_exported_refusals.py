"""Exports that cannot be run, or must not be, are each refused with one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.foreign.engine import ExportedEngine
from llmasos_hookspecs import CheckpointError, ConfigError, LLMasOSError, ResourceError, Row, UnsupportedModel
from llmasos_hookspecs.testing import TinyCheckpoint

from .conftest import Style, write_export, write_genai

Load = Callable[..., ExportedEngine]


@pytest.fixture(scope="module")
def exported(llama: TinyCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(llama, tmp_path_factory.mktemp("export"), Style(external="model.onnx_data"))


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def refusal(load_folder: Load, path: Path, kind: type[LLMasOSError] = CheckpointError, options: Options | None = None) -> str:
    with pytest.raises(kind) as caught:
        load_folder(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, edit: Callable[[onnx.ModelProto], Any]) -> None:
    model = onnx.load_model(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def relocated(location: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return edit


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/passwd", "a/../../outside.bin", "C:\\outside.bin", "", "*/_ORT_MEM_ADDR_/*", "x" * 300]
)
def test_external_data_comes_from_inside_the_folder_only(location: str, folder: Path, load_folder: Load) -> None:
    shutil.copy(folder / "model.onnx_data", folder.parent / "outside.bin")
    change(folder / "model.onnx", relocated(location))
    assert any(word in refusal(load_folder, folder) for word in ("leads outside its folder", "lacks the file", "cannot be opened"))


def test_external_data_of_a_branch_is_looked_at_too(llama: TinyCheckpoint, tmp_path: Path, load_folder: Load) -> None:
    path = write_export(llama, tmp_path / "model", Style(form="merged")) / "onnx" / "decoder_model_merged.onnx"

    def edit(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="hidden away", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        branch = next(a.g for a in model.graph.node[0].attribute if a.name == "else_branch")
        branch.node.append(helper.make_node("Constant", [], ["away"], value=tensor))

    change(path, edit)
    assert "/etc/passwd" in refusal(load_folder, tmp_path / "model")


def test_a_link_out_of_the_folder_is_not_followed(folder: Path, load_folder: Load) -> None:
    data = folder / "model.onnx_data"
    outside = Path(shutil.move(data, folder.parent / "weights.bin"))
    data.symlink_to(outside)
    assert "link that leads outside" in refusal(load_folder, folder)


def test_the_links_of_a_hugging_face_cache_are_followed(exported: Path, tmp_path: Path, load_folder: Load) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    blobs.mkdir()
    for file in exported.iterdir():
        shutil.copy(file, blobs / f"{file.name}-digest")
        below = snapshot / "onnx" if "onnx" in file.name else snapshot
        below.mkdir(parents=True, exist_ok=True)
        (below / file.name).symlink_to(os.path.relpath(blobs / f"{file.name}-digest", below))
    engine = load_folder(snapshot)
    assert engine.step([Row(engine.open(), [1, 2, 3], 0)])[0].shape == (1, 288)


def test_cut_and_missing_data_is_named(folder: Path, load_folder: Load) -> None:
    data = folder / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-4])
    assert "does not hold" in refusal(load_folder, folder)
    data.unlink()
    assert "lacks the file 'model.onnx_data'" in refusal(load_folder, folder)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_a_file_that_is_no_model_says_so(content: bytes, folder: Path, load_folder: Load) -> None:
    (folder / "model.onnx").write_bytes(content)
    assert "model.onnx" in refusal(load_folder, folder)


def renamed(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = value.name.replace(old, new)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name.replace(old, new) for name in names]

    return edit


def retyped(name: str, kind: int) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if name in value.name:
                value.type.tensor_type.elem_type = kind

    return edit


def fixed(name: str, axis: int, size: int) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            if name in value.name:
                value.type.tensor_type.shape.dim[axis].dim_value = size

    return edit


def flattened(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if "past" in value.name:
            del value.type.tensor_type.shape.dim[3]


def foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.example", 1))
    model.graph.node[0].domain = "ai.example"


def without_presents(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def reshaped(name: str, *shape: int) -> Callable[[onnx.ModelProto], None]:
    """An output is computed, cut to nothing, and given another shape."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = ["whole" if each == name else each for each in names]
        cut = [numpy_helper.from_array(np.array(value), key) for key, value in {"none": [0], "first": [0], "shape": shape}.items()]
        graph.initializer.extend(cut)
        graph.node.append(helper.make_node("Slice", ["whole", "none", "none", "first"], ["nothing"]))
        graph.node.append(helper.make_node("Reshape", ["nothing", "shape"], [name], allowzero=1))
        value = next(value for value in graph.output if value.name == name)
        value.type.tensor_type.ClearField("shape")

    return edit


WRONG: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "embeddings": (renamed("input_ids", "inputs_embeds"), "takes embeddings"),
    "an image": (renamed("position_ids", "pixel_values"), "a vision model"),
    "an encoder's states": (renamed("position_ids", "encoder_hidden_states"), "an encoder-decoder model"),
    "sound": (renamed("position_ids", "input_features"), "a speech model"),
    "an unknown input": (renamed("position_ids", "ssm_state"), "ssm_state, which the loader onnx does not know"),
    "no token ids": (renamed("input_ids", "attention_mask2"), "attention_mask2"),
    "hidden states": (renamed("logits", "last_hidden_state"), "with its head"),
    "a lost present": (without_presents, "of 4 tensors and gives 3"),
    "float token ids": (retyped("input_ids", TensorProto.FLOAT), "input_ids as float"),
    "a double cache": (retyped("past_key_values", TensorProto.DOUBLE), "as double, and float32 or float16"),
    "a fixed past": (fixed("past_key_values", 2, 16), "exactly 16 tokens"),
    "a fixed length": (fixed("input_ids", 1, 1), "exactly 1 tokens a run"),
    "keys of three axes": (flattened, "in 3 axes"),
    "an unknown domain": (foreign_operator, "ai.example:"),
    "an output twice": (lambda model: model.graph.output.append(model.graph.output[-1]), "two outputs of one name"),
    "an input twice": (lambda model: model.graph.input.append(model.graph.input[-1]), "two inputs or"),
    "no outputs": (lambda model: model.graph.ClearField("output"), "a decoder gives 'logits'"),
    "logits without a vocabulary": (reshaped("logits", 1, 4, 0), "logits of the shape (1, 4, 0)"),
    "logits of one axis": (reshaped("logits", 0), "logits of the shape (0,)"),
    "keys of one axis": (reshaped("present.0.key", 0), "present.0.key in the shape (0,)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_decoder_of_text_is_named(what: str, folder: Path, load_folder: Load) -> None:
    edit, words = WRONG[what]
    change(folder / "model.onnx", edit)
    assert words in refusal(load_folder, folder, UnsupportedModel)


def test_a_graph_that_forgets_its_cache_is_refused(folder: Path, load_folder: Load) -> None:
    """A graph whose cache does not hold what its tokens computed is found out when it is loaded."""

    def edit(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Concat" and "past_key_values.0.key" in node.input)
        node.input[0] = "past_key_values.0.value"  # the values of the past in the place of its keys

    change(folder / "model.onnx", edit)
    assert "cannot go on behind its cache" in refusal(load_folder, folder, UnsupportedModel)


def test_folders_of_other_models_and_of_several_are_named(folder: Path, load_folder: Load) -> None:
    shutil.copy(folder / "model.onnx", folder / "encoder_model.onnx")
    assert "an encoder-decoder" in refusal(load_folder, folder, UnsupportedModel)
    for name in ("model_q4.onnx", "model_fp16.onnx"):
        shutil.copy(folder / "model.onnx", folder / name)
    (folder / "encoder_model.onnx").unlink()
    (folder / "model.onnx").unlink()
    assert "model_fp16.onnx, model_q4.onnx, and none of them is model.onnx" in refusal(load_folder, folder, UnsupportedModel)
    assert load_folder(folder / "model_q4.onnx").info.vocab_size == 288


GENAI_WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another folder's graph": (lambda model: model["decoder"].update(filename="../model.onnx"), "leads outside"),
    "no such graph": (lambda model: model["decoder"].update(filename="other.onnx"), "lacks the file 'other.onnx'"),
    "images": (lambda model: model.update(vision={"filename": "vision.onnx"}), "vision"),
    "a pipeline": (lambda model: model["decoder"].update(pipeline=[{}]), "pipeline of several graphs"),
    "no decoder": (lambda model: model.pop("decoder"), "no table 'decoder'"),
    "no token ids": (lambda model: model["decoder"]["inputs"].pop("input_ids"), "does not say 'input_ids'"),
    "a name without its layer": (lambda model: model["decoder"]["inputs"].update(past_key_names="past.key"), "needs one %d"),
    "other names": (lambda model: model["decoder"]["inputs"].update(past_key_names="k.%d", past_value_names="v.%d"), "does not know how"),
}


@pytest.mark.parametrize("what", GENAI_WRONG)
def test_a_genai_config_that_does_not_fit_is_named(what: str, llama: TinyCheckpoint, tmp_path: Path, load_folder: Load) -> None:
    folder = write_genai(llama, tmp_path / "model")
    edit, words = GENAI_WRONG[what]
    config = json.loads((folder / "genai_config.json").read_text())
    edit(config["model"])
    (folder / "genai_config.json").write_text(json.dumps(config))
    assert words in refusal(load_folder, folder)


@pytest.mark.parametrize("option", [{"precision": "int8"}, {"prefill_activations": "fp32"}])
def test_options_that_an_export_cannot_follow_are_refused(option: dict[str, Any], exported: Path, load_folder: Load) -> None:
    assert "runs as it was stored" in refusal(load_folder, exported, ConfigError, Options(**option))


def test_a_memory_limit_holds_for_weights_and_cache(exported: Path, load_folder: Load) -> None:
    whole = load_folder(exported).info
    with pytest.raises(ResourceError, match="too small"):
        load_folder(exported, memory=whole.weight_bytes)
    tight = load_folder(exported, memory=whole.weight_bytes + 200 * whole.kv_bytes_per_token, max_sequences=2)
    assert tight.info.context_length == 40
    first, second = tight.open(), tight.open()
    tight.step([Row(first, range(40), 0), Row(second, range(39), 0)])
    with pytest.raises(LLMasOSError, match="memory limit"):
        tight.fork(first)


def test_rounding_with_a_shared_scale_is_said_and_sequences_take_turns(llama: TinyCheckpoint, tmp_path: Path, load_folder: Load) -> None:
    """Where activations share a scale a neighbour would change a row's logits, so rows are computed one by one: alike to the bit."""
    engine = load_folder(write_export(llama, tmp_path / "model", Style(shared_scale=True)))
    assert "batch" not in engine.info.features
    assert any("DynamicQuantizeLinear" in note for note in engine.info.notes)
    alone, beside, other = engine.open(), engine.open(), engine.open()
    for slot, text in ((alone, range(9)), (beside, range(9)), (other, range(100, 130))):
        engine.step([Row(slot, text, 0)])
    expected = engine.step([Row(alone, [7], 9)])[0]
    np.testing.assert_array_equal(engine.step([Row(other, [8], 30), Row(beside, [7], 9)])[1], expected)


@pytest.mark.parametrize("heads", [-1, -(2**63), 1 << 40])
@pytest.mark.parametrize("axis", [1, 3])
def test_keys_and_values_of_an_impossible_width_are_refused(axis: int, heads: int, folder: Path, load_folder: Load) -> None:
    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if "past" in value.name or "present" in value.name:
                value.type.tensor_type.shape.dim[axis].dim_value = heads

    change(folder / "model.onnx", edit)
    assert "which no decoder has" in refusal(load_folder, folder, UnsupportedModel)


def test_a_layer_whose_number_has_thousands_of_digits_is_refused(folder: Path, load_folder: Load) -> None:
    """Python itself refuses to read such a number."""

    def edit(model: onnx.ModelProto) -> None:
        value = next(value for value in model.graph.input if "past" in value.name)
        value.name = f"past_key_values.{'9' * 5000}.key"

    change(folder / "model.onnx", edit)
    refusal(load_folder, folder, UnsupportedModel)


@pytest.mark.parametrize("name", ["half \ud800", "a\nb\x1b[2J"])
def test_names_with_control_characters_are_shown_in_one_line(name: str, folder: Path, load_folder: Load) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = name.encode("utf-8", "replace").decode()

    change(folder / "model.onnx", edit)
    assert refusal(load_folder, folder, UnsupportedModel).isprintable()


def test_only_a_graph_that_passed_in_a_child_is_parsed_here(load_folder: Load, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx in this process never sees a graph that the child refused, and sees one that passed."""
    parsed: list[Path] = []
    load = onnx.load_model

    def watched(path: Path, **how: Any) -> onnx.ModelProto:
        parsed.append(path)
        return load(path, **how)

    monkeypatch.setattr(onnx, "load_model", watched)
    good = (folder / "model.onnx").read_bytes()
    for data in (good[: len(good) // 2], b"\x0a\xff\xff\xff\xff\x0f", b""):
        (folder / "model.onnx").write_bytes(data)
        assert str(folder / "model.onnx") in refusal(load_folder, folder)
    assert parsed == []
    (folder / "model.onnx").write_bytes(good)
    load_folder(folder)
    assert parsed == [folder / "model.onnx"]
