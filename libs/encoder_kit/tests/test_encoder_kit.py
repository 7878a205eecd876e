"""Configs of encoders, runs of like length, pooling, and what folders say; whole models are compared in tests/test_encoders_agree.py."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmasos_encoder_kit.choice import is_encoder, model_folder
from llmasos_encoder_kit.config import EncoderLayer, read_config
from llmasos_encoder_kit.fitting import batch_tokens
from llmasos_encoder_kit.options import EncoderOptions
from llmasos_encoder_kit.pooling import Step, activated, pool
from llmasos_encoder_kit.runs import check_rows, groups_of, runs_of
from llmasos_encoder_kit.sentence import surroundings
from llmasos_hookspecs import CheckpointError, EncoderInfo, EncoderRow, EngineLimits, ResourceError, UnsupportedModel

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip


@attrs.frozen
class Folder:
    """A checkpoint, as far as its folder is asked for."""

    path: Path
    config: dict[str, Any] = attrs.field(factory=dict)


def test_positions_of_roberta_begin_behind_the_padding_token() -> None:
    config = read_config({"model_type": "roberta", "pad_token_id": 1, **SIZES}, "here")
    assert (config.first_position, config.positions) == (2, 62)


def test_layers_of_modernbert_take_turns() -> None:
    """Every third sees all tokens; the others have a window and another base of the rotations."""
    config = read_config({"model_type": "modernbert", "local_attention": 16, **SIZES}, "here")
    whole, near = EncoderLayer(theta=160_000.0), EncoderLayer(theta=10_000.0, window=8)
    assert list(config.layers) == [whole, near, near, whole]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_size": 0}, CheckpointError, "hidden_size = 0"), ({"hidden_size": 30}, CheckpointError, "30 for 4 heads"),
        ({"vocab_size": 1 << 40}, CheckpointError, "vocab_size"), ({"hidden_act": "mish"}, UnsupportedModel, "'mish'"),
        ({"position_embedding_type": "relative_key"}, UnsupportedModel, "relative_key"),
        ({"model_type": "llama"}, UnsupportedModel, "llama"),
        ({"rope_parameters": {"rope_type": "yarn"}}, UnsupportedModel, "'yarn'"), ({"num_hidden_layers": True}, CheckpointError, "True"),
    ],
)  # fmt: skip
def test_a_config_that_is_damaged_or_of_another_form_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_config({"model_type": "bert", **SIZES, **changes}, "here")


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(60, 400), st.booleans())
def test_runs_hold_every_row_once_and_never_too_much(lengths: list[int], most: int, alike: bool) -> None:
    """Padding counts; runs that are to be alike have none."""
    rows = [EncoderRow([1] * length) for length in lengths]
    runs = runs_of(rows, most, alike=alike)
    assert sorted(place for run in runs for place in run) == list(range(len(rows)))
    for run in runs:
        sizes = [lengths[place] for place in run]
        assert max(sizes) * len(sizes) <= most
        assert not alike or len(set(sizes)) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 400))
def test_groups_hold_every_run_once_in_order_and_no_two_neighbours_fit_into_one(lengths: list[int], most: int) -> None:
    rows = [EncoderRow([1] * length) for length in lengths]
    runs = runs_of(rows, most, alike=True)
    groups = groups_of(rows, runs, most)
    assert [run for group in groups for run in group] == runs
    sizes = [[sum(lengths[place] for place in run) for run in group] for group in groups]
    assert all(sum(size) <= most or len(size) == 1 for size in sizes)
    assert all(sum(size) + following[0] > most for size, following in itertools.pairwise(sizes))


def test_rows_that_the_contract_forbids_are_refused() -> None:
    info = EncoderInfo(dimensions=2, pooling="mean", context_length=4, max_batch_tokens=8, vocab_size=10, weight_bytes=1)
    for row in (EncoderRow([]), EncoderRow([1] * 5), EncoderRow([10]), EncoderRow([-1]), EncoderRow([1], [0, 0])):
        with pytest.raises(ValueError, match="row"):
            check_rows([row], info)


def test_pooling_sees_no_padding() -> None:
    """Each mode of a text with padding behind it gives what it gives of the text alone."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 7, 3)).astype(np.float32)
    lengths = np.array([7, 4])
    modes = ("mean", "cls", "last", "max", "mean_sqrt_length", "weighted_mean")
    together = pool(hidden, lengths, modes)
    for place, length in enumerate(lengths):
        alone = pool(hidden[place : place + 1, :length], lengths[place : place + 1], modes)
        assert np.abs(together[place] - alone[0]).max() < 1e-6
    assert np.abs(together[1, :3] - hidden[1, :4].mean(0)).max() < 1e-6


def test_steps_are_those_of_torch() -> None:
    import torch

    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    weight, bias = x.T[:, :4] @ x[:4], x[0]
    tensor = torch.from_numpy(x)
    norm = torch.nn.functional.layer_norm(tensor, (8,), torch.from_numpy(x[1]), torch.from_numpy(x[2]), 1e-5)
    assert np.abs(Step("norm", x[1], x[2])(x) - norm.numpy()).max() < 1e-5
    assert np.abs(Step("unit")(x) - torch.nn.functional.normalize(tensor).numpy()).max() < 1e-6
    dense = torch.tanh(torch.nn.functional.linear(tensor, torch.from_numpy(weight), torch.from_numpy(bias)))
    assert np.abs(Step("dense", weight, bias, "tanh")(x) - dense.numpy()).max() < 1e-5
    gelu = torch.nn.functional.gelu
    wanted = {"gelu": gelu(tensor), "gelu_tanh": gelu(tensor, approximate="tanh"), "relu": tensor.relu(), "sigmoid": tensor.sigmoid()}
    wanted["silu"] = torch.nn.functional.silu(tensor)
    for name, found in wanted.items():
        assert np.abs(activated(x, name) - found.numpy()).max() < 1e-6


def write(folder: Path, modules: list[dict[str, str]], **files: Any) -> Folder:
    (folder / "modules.json").write_text(json.dumps(modules))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Folder(folder)


TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}


@pytest.mark.parametrize(
    ("modules", "files", "error", "message"),
    [
        ([{"path": "", "type": "x.CLIPModel"}], {}, UnsupportedModel, "begins with CLIPModel"), ([], {}, UnsupportedModel, "nothing"),
        ([TRANSFORMER, {"path": "1_LSTM", "type": "x.LSTM"}], {}, UnsupportedModel, "'LSTM'"),
        ([{**TRANSFORMER, "path": "0_Transformer"}], {}, UnsupportedModel, "0_Transformer"),
        ([TRANSFORMER, {"path": "../x", "type": "x.Dense"}], {}, CheckpointError, "outside"),
        ([TRANSFORMER, {"path": "2_Dense", "type": "x.Dense"}], {}, CheckpointError, "only safetensors are read"),
        ([TRANSFORMER], {"sentence_bert_config": {"do_lower_case": True}}, UnsupportedModel, "small letters"),
        ({"a": 1}, {}, CheckpointError, "no list of modules"),
    ],
)  # fmt: skip
def test_a_folder_that_asks_for_what_is_not_computed_is_refused(
    tmp_path: Path, modules: Any, files: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        surroundings(write(tmp_path, modules, **files), EncoderOptions())  # type: ignore[arg-type]  # its folder is all that is asked for


def test_prompts_are_those_of_the_folder_unless_options_say_others(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "find: ", "document": "read: "}, "default_prompt_name": None}
    folder: Any = write(tmp_path, [TRANSFORMER], config_sentence_transformers=settings, sentence_bert_config={"max_seq_length": 9})
    found = surroundings(folder, EncoderOptions())
    assert (dict(found.prompts), found.max_length, found.pooling) == ({"query": "find: ", "passage": "read: "}, 9, ("mean",))
    changed = surroundings(folder, EncoderOptions(query_prompt="", pooling="cls"))
    assert (dict(changed.prompts), changed.pooling, changed.notes) == ({"query": "", "passage": "read: "}, ("cls",), ())


def test_an_encoder_is_told_by_its_architecture_or_its_folder(tmp_path: Path) -> None:
    ask: Any = is_encoder
    assert ask(Folder(tmp_path, {"model_type": "bert"}))
    assert not ask(Folder(tmp_path, {"model_type": "bert", "is_decoder": True}))
    assert not ask(Folder(tmp_path, {"model_type": "qwen3"}))
    assert ask(write(tmp_path, [TRANSFORMER]))


def test_graphs_in_a_folder_of_their_own_belong_to_the_folder_above(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "onnx" / "model.onnx").write_text("")
    assert model_folder(tmp_path / "onnx" / "model.onnx") == tmp_path == model_folder(tmp_path)


def test_a_memory_limit_makes_batches_smaller_and_refuses_what_holds_no_text() -> None:
    def tokens(memory: int | None) -> int:
        limits = EngineLimits(memory=memory)
        return batch_tokens(EncoderOptions(batch_tokens=100), limits, context_length=10, weight_bytes=1000, token_bytes=10)

    assert [tokens(None), tokens(10_000), tokens(1500), tokens(1100)] == [100, 100, 50, 10]
    with pytest.raises(ResourceError, match="a text of 10 tokens 100, and the limit is 1050"):
        tokens(1050)
