"""``DecoderConfig`` reads the ``config.json`` of each family as transformers writes it, in its new form and its old one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from llmasos_hookspecs import CheckpointError, DecoderConfig, LLMasOSError, RopeScaling, UnsupportedModel
from llmasos_hookspecs.testing import CASES, TRAIT_CASES, tiny_checkpoint

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def read(**changes: Any) -> DecoderConfig:
    return DecoderConfig.from_dict({**LLAMA, **changes})


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_transformers_configs_are_read(kind: str) -> None:
    """A config made by transformers gives the shapes, the rope and the switches that transformers' own model has."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        kind,
        **{key: value for key, value in LLAMA.items() if key != "model_type"},
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    read = DecoderConfig.from_dict(config.to_dict())
    assert (read.model_type, read.vocab_size, read.hidden_size, read.num_layers) == (kind, 320, 64, 2)
    assert (read.num_heads, read.num_kv_heads, read.context_length, read.rope_theta) == (4, 2, 256, 5e5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if read.tie_embeddings:
        shapes.pop("lm_head.weight", None)
    assert read.tensor_shapes() == shapes


@pytest.mark.parametrize("case", [*CASES, *TRAIT_CASES])
def test_a_tiny_checkpoint_has_the_tensors_of_its_config(case: str) -> None:
    """``tensor_shapes`` names just the tensors that the kit's checkpoints hold."""
    checkpoint = tiny_checkpoint(case)
    assert {name: checkpoint.shape(name) for name in checkpoint.names()} == checkpoint.decoder.tensor_shapes()


def test_sizes_have_the_defaults_of_transformers() -> None:
    """Without key-value heads or a head size each head has its own, of the hidden size's share."""
    config = read(num_key_value_heads=None, head_dim=None)
    assert (config.num_kv_heads, config.head_dim, config.kv_width) == (4, 16, 64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (False, False, False, False)),
        ({"attention_bias": True, "mlp_bias": True}, (True, True, True, False)),
        ({"model_type": "qwen2"}, (True, False, False, False)),
        ({"model_type": "qwen3"}, (False, False, False, True)),
        ({"model_type": "qwen3", "attention_bias": True}, (True, True, False, True)),
        ({"model_type": "mistral"}, (False, False, False, False)),
    ],
)
def test_biases_and_norms_follow_the_architecture(changes: dict[str, Any], expected: tuple[bool, ...]) -> None:
    """qwen2 has biases on q, k and v, qwen3 norms on q and k, whether the config names them or not."""
    config = read(**changes)
    assert (config.attention_bias, config.output_bias, config.mlp_bias, config.qk_norm) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, 64),
        ({"model_type": "qwen3", "sliding_window": 64}, None),
    ],
)
def test_sliding_windows(changes: dict[str, Any], expected: int | None) -> None:
    """mistral's window holds where it is given, qwen's only where it is switched on."""
    assert read(**changes).sliding_window == expected


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 7.0}, 7.0, RopeScaling(kind="linear", factor=2.0)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 1e4, RopeScaling(kind="llama3", factor=8.0, original_max_position=64)),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            5e5,
            RopeScaling(kind="llama3", factor=8.0, original_max_position=64),
        ),
    ],
)
def test_rope_in_its_new_and_old_forms(changes: dict[str, Any], theta: float, scaling: RopeScaling | None) -> None:
    """``rope_parameters`` of transformers 5, and ``rope_theta`` with ``rope_scaling`` of older files."""
    config = read(**changes)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(("value", "expected"), [(None, ()), (2, (2,)), ([2, 7], (2, 7))])
def test_end_tokens_are_one_or_many(value: Any, expected: tuple[int, ...]) -> None:
    """``eos_token_id`` is a number, a list or nothing."""
    assert read(eos_token_id=value).eos_token_ids == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'.*llmasos-backend-torch"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "xielu"}, "hidden_act 'xielu'"),
        ({"rope_scaling": {"type": "axial", "factor": 4.0}}, "rope scaling 'axial'"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 2}, "layers of 'linear_attention'"),
    ],
)
def test_what_is_not_described_is_unsupported(changes: dict[str, Any], sentence: str) -> None:
    """An architecture, activation or rope that the family lacks is named, with what would take it."""
    with pytest.raises(UnsupportedModel, match=sentence):
        read(**changes)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("value", [None, 0, -1, "64", 64.0, True, 2**40])
def test_a_size_that_cannot_be_is_damage(key: str, value: Any) -> None:
    """A size that is missing, no whole number or absurd is a ``CheckpointError`` that names it."""
    with pytest.raises(CheckpointError, match=key):
        read(**{key: value})


def test_heads_that_do_not_divide_are_damage() -> None:
    """Key-value heads must divide the heads."""
    with pytest.raises(CheckpointError, match="num_key_value_heads 3"):
        read(num_key_value_heads=3)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@given(key=st.sampled_from([*LLAMA, "head_dim", "hidden_act"]), value=_JSON)
def test_no_config_gives_a_bare_python_error(key: str, value: Any) -> None:
    """Whatever stands in a config, it is read or refused with a sentence."""
    try:
        config = DecoderConfig.from_dict({**LLAMA, key: value})
    except LLMasOSError as error:
        assert str(error).endswith(".")  # noqa: PT017
    else:
        assert attrs.asdict(config)["num_heads"] > 0
