"""The defaults of each architecture: the values of keys that a ``config.json`` leaves out.

One entry a ``model_type``. The values are those of transformers' config classes and models; a test drops each key in turn and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

from llmasos_hookspecs.decoder.config import TensorNames

#: A switch of an architecture: always on or off, or the key of ``config.json`` that says so.
Switch = bool | str

#: Which layers have a sliding window where ``layer_types`` does not say: all, none, those from ``max_window_layers`` on, all but every
#: n-th, or those without rotation.
Windows = Literal["all", "none", "from_max_window_layers", "pattern", "unrotated"]


@attrs.frozen(kw_only=True)
class Family:
    """One architecture.

    Attributes:
        defaults: key of ``config.json`` -> what it is where the key is missing. A key that is there and null is not missing.
        kv_heads: key of the number of key-value heads, where a null means as many as heads; None: always as many as heads.
        takes_head_dim: whether the key ``head_dim`` is followed; else heads share the hidden size.
        eps: key of the norms' epsilon; None: 1e-5, fixed.
        qkv_bias, output_bias, mlp_bias, head_bias: switches; a key that is missing is off.
        activation: key of the activation; None: it is ``silu``.
        theta, local_theta, partial: keys of the rotary base of all layers, of sliding layers where those have their own, and of the share
            of a head that is rotated.
        ropes_by_type: rope_parameters may hold one entry a layer type; an old ``rope_scaling`` speaks of full attention alone.
        windows: see ``Windows``; ``window_switch``: the key that turns windows on, None where they always are.
        pattern: key of n, for ``pattern``.
        rotates: which layers rotate: all, those with a window, those with one unless no layer has, or those that ``no_rope_layers`` marks.
        scales: attention's score scale is ``head_dim ** -0.5`` (None), the value of a key, or that value to the power of
            -0.5 (``root``).
        refuses: keys that ask for what ``DecoderConfig`` does not describe where they hold anything but null and false.
    """

    defaults: Mapping[str, object] = attrs.field(factory=dict)
    kv_heads: str | None = "num_key_value_heads"
    takes_head_dim: bool = True
    eps: str | None = "rms_norm_eps"
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    norm_bias: bool = False
    norm_weight: bool = True
    block: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    parallel_switch: str | None = None
    qkv_bias: Switch = False
    output_bias: Switch = False
    mlp_bias: Switch = False
    head_bias: bool = False
    activation: str = "hidden_act"
    gated: bool = True
    qk_norm: bool = False
    qk_norm_width: bool = False
    theta: str = "rope_theta"
    local_theta: str | None = None
    partial: str = "partial_rotary_factor"
    interleaved: bool = False
    ropes_by_type: bool = False
    windows: Windows = "none"
    window_switch: str | None = None
    pattern: str | None = None
    rotates: Literal["all", "windowed", "windowed_if_any", "no_rope_layers"] = "all"
    embedding_scale: Literal["none", "root_hidden"] | str = "none"
    residual_scale: str | None = None
    attention_scale: tuple[str, Literal["value", "root"]] | None = None
    attention_softcap: str | None = None
    logit_scale: tuple[str, Literal["times", "over"]] | None = None
    logit_softcap: str | None = None
    refuses: tuple[str, ...] = ()
    names: TensorNames = attrs.field(factory=TensorNames)


_POST: Final = TensorNames(
    attention_norm=None, mlp_norm=None, attention_out_norm="post_attention_layernorm", mlp_out_norm="post_feedforward_layernorm"
)
_GEMMA_SANDWICH: Final = TensorNames(
    attention_out_norm="post_attention_layernorm", mlp_norm="pre_feedforward_layernorm", mlp_out_norm="post_feedforward_layernorm"
)
_GLM: Final = TensorNames(gate="mlp.gate_up_proj", up="mlp.gate_up_proj")
_ONE_NORM: Final = TensorNames(mlp_norm=None)

_MISTRAL: Final = {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "sliding_window": 4096}
_QWEN: Final = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 4096}
_GEMMA: Final = {"head_dim": 256, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192}
_GEMMA2: Final = {"num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096, "hidden_activation": "gelu_pytorch_tanh"}
_GLM_SIZES: Final = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
}
_COHERE: Final = {
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "logit_scale": 0.0625,
}

#: ``model_type`` -> what is known of the family; ``DecoderConfig`` describes these.
DECODER_FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Family(defaults=_MISTRAL, windows="all"),
    "ministral": Family(defaults=_MISTRAL, windows="all"),
    "qwen2": Family(defaults=_QWEN, qkv_bias=True, windows="from_max_window_layers", window_switch="use_sliding_window"),
    "qwen3": Family(
        defaults={**_QWEN, "head_dim": 128},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        windows="from_max_window_layers",
        window_switch="use_sliding_window",
    ),
    "gemma": Family(
        defaults={**_GEMMA, "num_key_value_heads": 16},
        norm_offset=1.0,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        embedding_scale="root_hidden",
        refuses=("use_bidirectional_attention",),
    ),
    "gemma2": Family(
        defaults={**_GEMMA, **_GEMMA2, "sliding_window_pattern": 2, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        norm_offset=1.0,
        block="sandwich",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        activation="hidden_activation",
        embedding_scale="root_hidden",
        attention_scale=("query_pre_attn_scalar", "root"),
        attention_softcap="attn_logit_softcapping",
        logit_softcap="final_logit_softcapping",
        windows="pattern",
        refuses=("use_bidirectional_attention",),
        names=_GEMMA_SANDWICH,
    ),
    "gemma3_text": Family(
        defaults={
            **_GEMMA,
            **_GEMMA2,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window_pattern": 6,
        },
        norm_offset=1.0,
        block="sandwich",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        activation="hidden_activation",
        qk_norm=True,
        local_theta="rope_local_base_freq",
        ropes_by_type=True,
        embedding_scale="root_hidden",
        attention_scale=("query_pre_attn_scalar", "root"),
        # transformers reads attn_logit_softcapping and does not use it.
        logit_softcap="final_logit_softcapping",
        windows="pattern",
        pattern="sliding_window_pattern",
        refuses=("use_bidirectional_attention",),
        names=_GEMMA_SANDWICH,
    ),
    "phi": Family(
        defaults={"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        eps="layer_norm_eps",
        norm="layer",
        norm_bias=True,
        block="parallel",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
        refuses=("qk_layernorm",),
        names=TensorNames(o="self_attn.dense", up="mlp.fc1", down="mlp.fc2", mlp_norm=None, final_norm="model.final_layernorm"),
    ),
    "phi3": Family(
        defaults={"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        windows="all",
        names=TensorNames(
            q="self_attn.qkv_proj", k="self_attn.qkv_proj", v="self_attn.qkv_proj", gate="mlp.gate_up_proj", up="mlp.gate_up_proj"
        ),
    ),
    "granite": Family(
        defaults={"attention_multiplier": 1.0},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        attention_scale=("attention_multiplier", "value"),
        logit_scale=("logits_scaling", "over"),
    ),
    "smollm3": Family(
        defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        windows="unrotated",
        window_switch="use_sliding_window",
        rotates="no_rope_layers",
    ),
    "olmo": Family(
        eps=None,
        norm="layer",
        norm_weight=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        refuses=("clip_qkv",),
    ),
    "olmo2": Family(
        defaults={"rms_norm_eps": 1e-5},
        block="post",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        names=_POST,
    ),
    "olmo3": Family(
        defaults={
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "rope_theta": 5e5,
            "rope_local_base_freq": 5e5,  # whatever rope_theta says
        },
        block="post",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        local_theta="rope_local_base_freq",
        ropes_by_type=True,
        windows="pattern",
        names=_POST,
    ),
    "starcoder2": Family(
        defaults={
            "num_key_value_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "use_bias": True,
        },
        eps="norm_epsilon",
        norm="layer",
        norm_bias=True,
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        gated=False,
        windows="all",
        names=TensorNames(up="mlp.c_fc", down="mlp.c_proj"),
    ),
    "stablelm": Family(
        defaults={
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25,
        },
        takes_head_dim=False,
        eps="layer_norm_eps",
        norm="layer",
        norm_bias=True,
        parallel_switch="use_parallel_residual",
        qkv_bias="use_qkv_bias",
        refuses=("qk_layernorm",),
    ),
    "gpt_neox": Family(
        defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "attention_bias": True,
            "use_parallel_residual": True,
        },
        kv_heads=None,
        takes_head_dim=False,
        eps="layer_norm_eps",
        norm="layer",
        norm_bias=True,
        parallel_switch="use_parallel_residual",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias=True,
        gated=False,
        theta="rotary_emb_base",
        partial="rotary_pct",
        names=TensorNames(
            embedding="gpt_neox.embed_in",
            final_norm="gpt_neox.final_layer_norm",
            head="embed_out",
            layer="gpt_neox.layers.{}",
            q="attention.query_key_value",
            k="attention.query_key_value",
            v="attention.query_key_value",
            o="attention.dense",
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            qkv_by_head=True,
        ),
    ),
    "cohere": Family(
        defaults={**_COHERE, "rope_theta": 5e5},
        eps="layer_norm_eps",
        norm="layer",
        block="parallel",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        interleaved=True,
        logit_scale=("logit_scale", "times"),
        refuses=("use_qk_norm",),
        names=_ONE_NORM,
    ),
    "cohere2": Family(
        defaults={**_COHERE, "sliding_window": 4096, "sliding_window_pattern": 4},
        eps="layer_norm_eps",
        norm="layer",
        block="parallel",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        interleaved=True,
        windows="pattern",
        pattern="sliding_window_pattern",
        rotates="windowed",
        logit_scale=("logit_scale", "times"),
        names=_ONE_NORM,
    ),
    "nemotron": Family(
        defaults={"hidden_act": "relu2", "max_position_embeddings": 4096, "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        eps="norm_eps",
        norm="layer",
        norm_offset=1.0,
        norm_bias=True,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        gated=False,
    ),
    "glm": Family(defaults=_GLM_SIZES, qkv_bias="attention_bias", interleaved=True, names=_GLM),
    "glm4": Family(
        defaults=_GLM_SIZES,
        block="sandwich",
        qkv_bias="attention_bias",
        interleaved=True,
        names=attrs.evolve(_GLM, attention_out_norm="post_self_attn_layernorm", mlp_out_norm="post_mlp_layernorm"),
    ),
    "helium": Family(
        defaults={"num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096, "rms_norm_eps": 1e-8, "rope_theta": 1e5},
        qkv_bias="attention_bias",
        mlp_bias="mlp_bias",
        interleaved=True,
    ),
    "seed_oss": Family(
        defaults={"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True},
        qkv_bias="attention_bias",
        output_bias="attention_out_bias",
        mlp_bias="mlp_bias",
    ),
    "arcee": Family(
        defaults={"hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        gated=False,
    ),
    "exaone4": Family(
        defaults={"num_key_value_heads": 32, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        block="post",
        qk_norm=True,
        windows="pattern",
        pattern="sliding_window_pattern",
        rotates="windowed_if_any",
        names=_POST,
    ),
    "ernie4_5": Family(
        defaults={
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 5e5,
            "tie_word_embeddings": True,
        },
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        interleaved=True,
    ),
}
