"""Every architecture of GGUF that is read and written: from transformers' model to a file and back.

The files are made by ``write_gguf`` of tiny random models, so a fault that writer and reader share would not show between the two of
them; llama.cpp, which shares no code with either, must compute the same (``test_llama_cpp``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from transformers import AutoConfig, PreTrainedModel

from llmasos_format_gguf.families import FAMILIES
from llmasos_format_gguf.family import Family
from llmasos_hookspecs import Checkpoint, EngineLimits, Row, UnsupportedModel, as_float32
from llmasos_hookspecs.testing.sandbox import SandboxContext

from .models import MODELS, apart, expected, prompt

#: Families whose norms are stored with 1 added: what is read differs by the rounding of that sum, and logarithms of decay rates by that of
#: the exponential.
PLUS_ONE = ("gemma", "gemma2", "gemma3", "nemotron", "qwen3_next", "qwen3_5", "qwen3_5_moe")

#: The model that GGUF stores with other weights: multiplied, where its config says by what.
MULTIPLIED = "falcon_h1, multiplied"

#: Keys of a config that say nothing of what a model computes, or say it of what is written anyhow.
_SILENT = {"architectures", "dtype", "transformers_version", "_attn_implementation_autoset"}


#: Models that widen another of their architecture by what a third shows beside its own: a tied head, biases, norms, windows, YaRN, groups.
_WIDER = {
    "llama, tied", "llama, biases", "mistral, window", "phi3, window", "qwen2, yarn", "stablelm, norms", "cohere, norms",
    "exaone4, windows", "falcon, one norm", "deepseek_v2, yarn", "deepseek_v2, groups", "deepseek_v3, yarn", "lfm2, adjusted",
}  # fmt: skip
_MODELS = [pytest.param(name, marks=pytest.mark.long) if name in _WIDER else name for name in MODELS]


def test_every_family_of_the_table_has_a_model_here() -> None:
    assert {family.model_type for family in FAMILIES} == {kind for kind, _ in MODELS.values()}


#: Keys whose value the architecture of the file fixes to another than transformers' default, because no published model has that.
_PUBLISHED = {
    ("afmoe", "mup_enabled"),
    ("qwen3_moe", "norm_topk_prob"),
    ("dots1", "sliding_window"),
    ("granitemoehybrid", "num_local_experts"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.arch} as {family.model_type}")
def test_what_a_config_leaves_out_is_what_transformers_takes(family: Family) -> None:
    """The table's defaults and what an architecture implies, against transformers' own config classes."""
    default = AutoConfig.for_model(family.model_type)
    told = default.to_dict()
    nested = told.get("attn_config") or {}
    for field in family.fields:
        if field.default is not ...:
            assert nested.get(field.name.removeprefix("attn_config."), told.get(field.name)) == field.default, field.name
    for key, value in family.fixed.items():
        if (family.model_type, key) not in _PUBLISHED and key not in ("new_decoder_architecture", "num_ln_in_parallel_attn"):
            assert nested.get(key.removeprefix("attn_config."), told.get(key)) == value, key
    names = () if family.state is None else attrs.astuple(family.state, recurse=False)
    for name, value in names:
        # An "auto" is gone once the config is made; the models here prove what it means.
        assert not name or value == "auto" or told[name] == value, name
    if family.norm:
        assert told[family.norm] == family.epsilon
    if type(family.head_dim) is int:
        assert told["head_dim"] == family.head_dim
    assert bool(getattr(default, "tie_word_embeddings", True)) == family.tied
    if family.rope:
        rope = told["rope_parameters"]
        whole = rope.get("full_attention", rope)
        assert whole["rope_theta"] == family.theta
        share = family.scaling.get("partial_rotary_factor", 1.0) if family.partial is None else family.partial
        assert whole.get("partial_rotary_factor", 1.0) == share
        assert all(whole[key] == value for key, value in family.scaling.items())
        assert rope.get("sliding_attention", {}).get("rope_theta") == family.local_theta
    for key, value in family.defaults.items():
        if family.key(key) in told and told[family.key(key)] is not None and key != "num_key_value_heads":
            found = told[family.key(key)]
            assert found == value or found == [value] * len(found), key


@pytest.mark.parametrize("name", _MODELS)
def test_tensors_are_those_of_the_folder(name: str, made: Any, opened: Any) -> None:
    _, folder, file = made(name)
    source, found = opened(folder), opened(file)
    assert set(found.names()) == set(source.names())
    if name == MULTIPLIED:
        wanted = 2 * 0.25 * as_float32(source.tensor("model.layers.1.self_attn.k_proj.weight"))
        np.testing.assert_array_equal(as_float32(found.tensor("model.layers.1.self_attn.k_proj.weight")), wanted)
        return
    for tensor in source.names():
        wanted, got = as_float32(source.tensor(tensor)), as_float32(found.tensor(tensor))
        assert got.shape == found.shape(tensor) == wanted.shape
        rounded = (name in PLUS_ONE and "norm" in tensor) or tensor.endswith("A_log")
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-7 if rounded else 0, err_msg=tensor)


@pytest.mark.parametrize("name", _MODELS)
def test_the_config_makes_the_same_config_of_transformers(name: str, made: Any, opened: Any) -> None:
    model, _, file = made(name)
    wanted = model.config.to_dict()
    found = AutoConfig.for_model(**opened(file).config).to_dict()
    for key in wanted:
        assert same_value(found.get(key), wanted[key], key, model), (key, found.get(key), wanted[key])


def same_value(found: Any, wanted: Any, key: str, model: PreTrainedModel) -> bool:
    if key in _SILENT:
        return True
    if str(key).endswith(("multiplier", "multipliers")) and model.config.model_type == "falcon_h1":  # the weights are multiplied
        return found in (1.0, [1.0] * len(wanted) if isinstance(wanted, list) else 1.0)
    if key == "rope_parameters" and "alpha" in wanted:  # the base is given as stretched as it is
        return bool(found["rope_type"] == "default" and found["rope_theta"] > wanted["rope_theta"])
    if key == "moe_topk" and isinstance(wanted, list):
        return bool(wanted == [found] * len(wanted))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(same_value(found.get(part), wanted[part], part, model) for part in wanted)
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return bool(np.float32(found) == np.float32(wanted))
    if key == "head_dim" and wanted is None:
        return found in (None, model.config.hidden_size // model.config.num_attention_heads)
    if key == "intermediate_size" and "moe" in getattr(model.config, "layers_block_type", ()):  # no layer has an MLP
        return True
    if key in ("num_mtp_layers", "num_nextn_predict_layers"):  # layers that the logits do not need
        return True
    # LFM2's MLP is given as wide as it is; and its layers by kind.
    if model.config.model_type == "lfm2" and key in ("intermediate_size", "block_auto_adjust_ff_dim", "full_attn_idxs"):
        return True
    if key == "num_experts_per_tok" and getattr(model.config, "num_local_experts", None) == 0:
        return True
    # Where the architecture does not read a key, its value says nothing; widths are there in full where the config implied them.
    if key in ("num_kv_heads", "multi_query") and model.config.model_type == "falcon":
        return True
    if key in ("n_inner", "num_ln_in_parallel_attn", "attention_factor") and wanted is None:
        return True
    if key in ("sliding_window", "max_window_layers", "sliding_window_pattern") and not found:
        return not wanted or not getattr(model.config, "use_sliding_window", False)
    return bool(found == wanted)


@pytest.mark.parametrize("name", _MODELS)
def test_loaders_that_read_the_decoder_see_the_same_as_in_the_folder(name: str, made: Any, opened: Any) -> None:
    """``DecoderConfig`` of the file is that of the folder, and is refused where that is."""
    _, folder, file = made(name)
    try:
        wanted = opened(folder).decoder
    except UnsupportedModel:
        with pytest.raises(UnsupportedModel):
            _ = opened(file).decoder
    else:
        assert opened(file).decoder == wanted


#: Of each form that a family may have: plain, experts, states, gated deltas, convolutions, multiplied weights, a compressed cache.
#: What the torch loader computes of the others follows from the tests above: their tensors and their config are those of the folder.
_COMPUTED = (
    "llama", "gpt2", "bloom", "gemma3", "qwen3_moe", "gpt_oss", "mamba2", "qwen3_next", "lfm2", "deepseek_v3", "phi3",
    "starcoder2", MULTIPLIED,
)  # fmt: skip


@pytest.mark.parametrize("name", [name if name in _COMPUTED else pytest.param(name, marks=pytest.mark.long) for name in MODELS])
def test_the_torch_loader_computes_what_transformers_computes_of_the_folder(name: str, made: Any, opened: Any, tmp_path: Path) -> None:
    model, _, file = made(name)
    tokens = prompt(60)
    engine = torch_engine(opened(file), tmp_path)
    try:
        slot = engine.open()
        got = np.concatenate([engine.step([Row(slot, tokens[:37], 0, "all")])[0], engine.step([Row(slot, tokens[37:], 37, "all")])[0]])
    finally:
        engine.shutdown()
    assert apart(got, expected(model, tokens)) < 2e-6


def torch_engine(checkpoint: Checkpoint, folder: Path) -> Any:
    from llmasos_backend_torch import Options
    from llmasos_backend_torch.loading import load

    context = SandboxContext(root=folder, limits=EngineLimits(threads=1, max_sequences=1))
    return load(checkpoint, Options(device="cpu", dtype="float32"), context)
