"""What the loader says it takes before it is chosen, and what it foresees of a load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import llmasos
from llmasos_backend_onnx import Options, llmasos_component, llmasos_predict
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_encoder_kit.names import FAMILIES as ENCODER_FAMILIES
from llmasos_hookspecs import DECODER_FAMILIES, CheckpointError, EngineLimits, Tensor, UnsupportedModel
from llmasos_hookspecs.testing.checkpoints import CASES, QUANTIZED_CASES, TRAIT_CASES, TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.families import FAMILY_CASES, FAMILY_SIZES, ROPE_CASES

pytestmark = pytest.mark.slow

COMPONENT = llmasos_component()


class Unread(TinyCheckpoint):
    """A checkpoint whose tensors must not be read."""

    def tensor(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read to tell whether the checkpoint is taken.")


def asked(config: dict[str, Any], form: str = "huggingface") -> str | None:
    assert COMPONENT.takes is not None
    return COMPONENT.takes(Unread(config=config, tensors={}, format=form))


def test_every_family_is_taken_from_its_config_alone() -> None:
    assert set(COMPONENT.architectures) == {*DECODER_FAMILIES, *ENCODER_FAMILIES}
    configs = [(kind, changes) for kind, changes in FAMILY_CASES] + [(kind, {"rope_parameters": rope}) for kind, rope in ROPE_CASES]
    for kind, changes in configs:
        assert asked({"model_type": kind, **FAMILY_SIZES, **changes}) is None, (kind, changes)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "granite", "attention_multiplier": 0.0}, "it has an attention scale or softcap of 0"),
        ({"model_type": "gemma2", "attn_logit_softcapping": 0.0}, "it has an attention scale or softcap of 0"),
    ],
)
def test_what_the_graph_lacks_is_said_and_refused_at_load(config: dict[str, Any], reason: str, start: Callable[..., OnnxEngine]) -> None:
    """In the same words; what an export computes is not asked of its config."""
    config = {**FAMILY_SIZES, **config}
    assert asked(config) == reason
    assert asked(config, "onnx") is None
    with pytest.raises(UnsupportedModel, match=reason):
        start(TinyCheckpoint(config=config, tensors={}))


@pytest.mark.parametrize(
    ("changes", "loader"),
    [
        ({"hidden_act": "mish"}, "torch"),
        ({"hidden_act": "gelu"}, "onnx"),
        ({"head_dim": 24}, "onnx"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}}, "onnx"),
    ],
    ids=["mish", "gelu", "heads of 24", "yarn"],
)
def test_auto_goes_on_to_another_loader_where_this_one_does_not_compute_a_config(
    tmp_path: Path, changes: dict[str, Any], loader: str
) -> None:
    pytest.importorskip("llmasos_backend_torch")
    plain = tiny_checkpoint("llama", num_hidden_layers=1, **{key: value for key, value in changes.items() if key == "head_dim"})
    attrs.evolve(plain, config={**plain.config, **changes}).write(tmp_path)
    with llmasos.load_model(tmp_path, loader="auto") as model:
        assert model.describe()["loader"].startswith(f'loader "{loader}"')
        assert model.logits([1, 2, 3]).shape == (3, 288)


@pytest.mark.parametrize(
    "precision", ["auto", "fp32", *(pytest.param(each, marks=pytest.mark.long) for each in ("int4", "int8", "int8_channel"))]
)
def test_the_memory_foreseen_is_what_a_load_takes(precision: Any, start: Callable[..., OnnxEngine]) -> None:
    """For fused tensors, heads with zeros, biases and names of any family; within a tenth, since one layer stands for all."""
    cases = [tiny_checkpoint(case) for case in (*CASES, *TRAIT_CASES, *QUANTIZED_CASES)]
    cases += [tiny_checkpoint("llama", head_dim=24), tiny_checkpoint("gpt_neox", hidden_size=96)]
    for checkpoint in cases:
        options = Options(precision=precision)

        class Context:
            limits = EngineLimits(threads=1, max_sequences=4)

        foreseen = llmasos_predict(checkpoint, options, Context())  # type: ignore[arg-type]  # all of a Context that it uses
        info = start(checkpoint, options).info
        assert foreseen is not None
        assert foreseen.kv_bytes_per_token == info.kv_bytes_per_token
        assert foreseen.weight_bytes == pytest.approx(info.weight_bytes, rel=0.1), checkpoint.config["model_type"]


def test_a_missing_tensor_of_a_family_is_named(start: Callable[..., OnnxEngine]) -> None:
    whole = tiny_checkpoint("gpt_neox")
    name = "gpt_neox.layers.1.attention.query_key_value.bias"
    broken = attrs.evolve(whole, tensors={key: value for key, value in whole.tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=name):
        start(broken)
