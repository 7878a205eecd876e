"""Families of GGUF some or all of whose layers keep a state in place of keys and values."""

from __future__ import annotations

from typing import Any, Final

import attrs
from gguf.constants import MODEL_TENSOR, ExpertGatingFuncType, Keys

from llmasos_format_gguf.delta import ByKeyHead, ValueHeads
from llmasos_format_gguf.family import Family, Field, Module, StateNames
from llmasos_format_gguf.layouts import (
    Both,
    ColumnsMoved,
    Depthwise,
    Halves,
    InGroups,
    Multiplied,
    NegativeExponent,
    OneColumn,
    OneRow,
    PlusOne,
    RowsMoved,
)
from llmasos_format_gguf.modules import (
    ATTENTION,
    EXPERT_COUNTS,
    EXPERT_WIDTH,
    GATED,
    GRANITE_EXPERTS,
    GRANITE_SCALES,
    LLAMA,
    LLAMA_ROTATED,
    MLP_EXPERT_COUNTS,
    MLP_EXPERTS,
    QK_NORMS,
    SILU,
    modules_of,
    of_layer,
    stacked_experts,
    with_changes,
)

_SHORT_CONVOLUTION: Final = (
    *modules_of("model.embed_tokens lm_head", "model.layers.{}", "self_attn.q_proj self_attn.k_proj self_attn.v_proj"),
    Module("model.embedding_norm", tensors=(MODEL_TENSOR.TOKEN_EMBD_NORM,)),
    of_layer("operator_norm", tensors=(MODEL_TENSOR.ATTN_NORM,)),
    of_layer("ffn_norm", tensors=(MODEL_TENSOR.FFN_NORM,)),
    of_layer("self_attn.out_proj", tensors=(MODEL_TENSOR.ATTN_OUT,)),
    of_layer("self_attn.q_layernorm", tensors=(MODEL_TENSOR.ATTN_Q_NORM,)),
    of_layer("self_attn.k_layernorm", tensors=(MODEL_TENSOR.ATTN_K_NORM,)),
    of_layer("conv.conv", Depthwise(), (MODEL_TENSOR.SHORTCONV_CONV,)),
    of_layer("conv.in_proj", tensors=(MODEL_TENSOR.SHORTCONV_INPROJ,)),
    of_layer("conv.out_proj", tensors=(MODEL_TENSOR.SHORTCONV_OUTPROJ,)),
    of_layer("feed_forward.w1", tensors=(MODEL_TENSOR.FFN_GATE,)),
    of_layer("feed_forward.w2", tensors=(MODEL_TENSOR.FFN_DOWN,)),
    of_layer("feed_forward.w3", tensors=(MODEL_TENSOR.FFN_UP,)),
)
_SHORT_CONVOLUTION_EXPERTS: Final = (
    of_layer("feed_forward.gate", tensors=(MODEL_TENSOR.FFN_GATE_INP,)),
    of_layer("feed_forward.expert_bias", tensors=(MODEL_TENSOR.FFN_EXP_PROBS_B,), leaf="bias"),
    of_layer("feed_forward.experts.{expert}.w1", tensors=(MODEL_TENSOR.FFN_GATE_EXP,)),
    of_layer("feed_forward.experts.{expert}.w2", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,)),
    of_layer("feed_forward.experts.{expert}.w3", tensors=(MODEL_TENSOR.FFN_UP_EXP,)),
)
_KERNEL: Final = Field("conv_L_cache", Keys.ShortConv.L_CACHE, default=3)


def _mixer(prefix: str) -> tuple[Module, ...]:
    """What both kinds of Mamba layers have."""
    return (
        Module(f"{prefix}.in_proj", tensors=(MODEL_TENSOR.SSM_IN,)),
        Module(f"{prefix}.out_proj", tensors=(MODEL_TENSOR.SSM_OUT,)),
        Module(f"{prefix}.conv1d", Depthwise(), (MODEL_TENSOR.SSM_CONV1D,)),
    )


def _mamba(prefix: str) -> tuple[Module, ...]:
    return (
        *_mixer(prefix),
        Module(f"{prefix}.x_proj", tensors=(MODEL_TENSOR.SSM_X,)),
        Module(f"{prefix}.dt_proj", tensors=(MODEL_TENSOR.SSM_DT,)),
        Module(f"{prefix}.A_log", NegativeExponent(), (MODEL_TENSOR.SSM_A,), ""),
        Module(f"{prefix}.D", tensors=(MODEL_TENSOR.SSM_D,), leaf=""),
    )


def _mamba2(prefix: str, groups: str) -> tuple[Module, ...]:
    """Mamba-2, whose heads share one number each."""
    return (
        *_mixer(prefix),
        Module(f"{prefix}.dt_bias", tensors=(MODEL_TENSOR.SSM_DT,), leaf="bias"),
        Module(f"{prefix}.A_log", NegativeExponent(column=True), (MODEL_TENSOR.SSM_A,), ""),
        Module(f"{prefix}.D", OneColumn(), (MODEL_TENSOR.SSM_D,), ""),
        Module(f"{prefix}.norm", InGroups(groups), (MODEL_TENSOR.SSM_NORM,)),
    )


_BACKBONE: Final = (
    Module("backbone.embeddings", tensors=(MODEL_TENSOR.TOKEN_EMBD,)),
    Module("backbone.norm_f", tensors=(MODEL_TENSOR.OUTPUT_NORM,)),
    Module("lm_head", tensors=(MODEL_TENSOR.OUTPUT,)),
    Module("backbone.layers.{}.norm", tensors=(MODEL_TENSOR.ATTN_NORM,)),
)
_GRANITE: Final = (*with_changes(LLAMA_ROTATED, without=GATED), *_mamba2("model.layers.{}.mamba", "mamba_n_groups"))
_GRANITE_STATE: Final = StateNames(
    conv=("mamba_d_conv", 4), size=("mamba_d_state", 256), expand=("mamba_expand", 2), heads=("mamba_n_heads", 128),
    width=("mamba_d_head", "auto"), groups=("mamba_n_groups", 1),
)  # fmt: skip
_GRANITE_FIXED: Final[dict[str, Any]] = {**SILU, "mamba_conv_bias": True, "mamba_proj_bias": False}
#: The parts that the rows of Falcon-H1's projection into a state-space layer are for: gate, inputs, both projections of the state, steps.
_FALCON_PARTS: Final = (
    ("mamba_d_ssm",), ("mamba_d_ssm",), ("mamba_n_groups", "mamba_d_state"), ("mamba_n_groups", "mamba_d_state"), ("mamba_n_heads",),
)  # fmt: skip

_NEMOTRON: Final = (
    *_BACKBONE, *_mamba2("backbone.layers.{}.mixer", "n_groups"),
    *(
        Module(f"backbone.layers.{{}}.mixer.{name}_proj", tensors=(tensor,)) for name, tensor in (
            ("q", MODEL_TENSOR.ATTN_Q), ("k", MODEL_TENSOR.ATTN_K), ("v", MODEL_TENSOR.ATTN_V), ("o", MODEL_TENSOR.ATTN_OUT),
        )
    ),
)  # fmt: skip
_NEMOTRON_STATE: Final = StateNames(
    conv=("conv_kernel", 4), size=("ssm_state_size", 128), heads=("mamba_num_heads", 128), width=("mamba_head_dim", 64),
    groups=("n_groups", 8),
)  # fmt: skip
_NEMOTRON_FIXED: Final[dict[str, Any]] = {
    "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "use_conv_bias": True, "use_bias": False, "mlp_bias": False,
    "attention_bias": False, "time_step_min": 0.001,
}  # fmt: skip
#: What tells how a layer's experts are used.
_NEMOTRON_EXPERTS: Final = (
    Field("n_routed_experts", Keys.LLM.EXPERT_COUNT, default=8),
    Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=2),
    Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=7688),
    Field("moe_shared_expert_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, default=7688),
    Field("moe_latent_size", Keys.LLM.MOE_LATENT_SIZE, default=None),
    Field("n_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=1),
    Field("n_group", Keys.LLM.EXPERT_GROUP_COUNT, default=1),
    Field("topk_group", Keys.LLM.EXPERT_GROUP_USED_COUNT, default=1),
    Field("norm_topk_prob", Keys.LLM.EXPERT_WEIGHTS_NORM, "flag", True, absent=False),
    Field("routed_scaling_factor", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", 1.0, absent=1.0),
)  # fmt: skip
#: Attention whose queries have a gate each, linear attention, and norms that are stored with 1 added.
_DELTA: Final = (
    *(
        attrs.evolve(module, layout=PlusOne()) if module.name.endswith("norm") else module
        for module in (*with_changes(LLAMA, without=GATED), *QK_NORMS)
        if not module.name.endswith("post_attention_layernorm")
    ),
    of_layer("post_attention_layernorm", PlusOne(), (MODEL_TENSOR.ATTN_POST_NORM,)),
    of_layer("linear_attn.norm", tensors=(MODEL_TENSOR.SSM_NORM,)),
)  # fmt: skip
_VALUE_HEADS: Final = (
    of_layer("linear_attn.in_proj_qkv", RowsMoved(ValueHeads()), (MODEL_TENSOR.ATTN_QKV,)),
    of_layer("linear_attn.in_proj_z", RowsMoved(ValueHeads()), (MODEL_TENSOR.ATTN_GATE,)),
    of_layer("linear_attn.in_proj_b", RowsMoved(ValueHeads(single=True)), (MODEL_TENSOR.SSM_BETA,)),
    of_layer("linear_attn.in_proj_a", RowsMoved(ValueHeads(single=True)), (MODEL_TENSOR.SSM_ALPHA,)),
    of_layer("linear_attn.conv1d", Both(RowsMoved(ValueHeads()), Depthwise()), (MODEL_TENSOR.SSM_CONV1D,)),
    of_layer("linear_attn.A_log", Both(RowsMoved(ValueHeads(single=True)), NegativeExponent()), (MODEL_TENSOR.SSM_A,), leaf=""),
    of_layer("linear_attn.dt_bias", RowsMoved(ValueHeads(single=True)), (MODEL_TENSOR.SSM_DT,), leaf="bias"),
    of_layer("linear_attn.out_proj", ColumnsMoved(ValueHeads()), (MODEL_TENSOR.SSM_OUT,)),
)  # fmt: skip
_DELTA_EXPERTS: Final = (
    *MLP_EXPERTS, of_layer("mlp.shared_expert_gate", OneRow()),
    *(of_layer(f"mlp.shared_expert.{name}_proj") for name in ("gate", "up", "down")),
)  # fmt: skip
_DELTA_STATE: Final = StateNames(
    conv=("linear_conv_kernel_dim", 4), size=("linear_key_head_dim", 128), heads=("linear_num_value_heads", 32),
    width=("linear_value_head_dim", 128), groups=("linear_num_key_heads", 16),
)  # fmt: skip


def _delta_experts(count: int, used: int) -> tuple[Field, ...]:
    return (
        Field("num_experts", Keys.LLM.EXPERT_COUNT, default=count),
        Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=used),
        Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=512),
        Field("shared_expert_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, default=512),
    )


def _alone(name: str, tensor: MODEL_TENSOR, **more: Any) -> Module:
    return Module(f"backbone.layers.{{}}.mixer.{name}", tensors=(tensor,), **more)


HYBRIDS: Final[tuple[Family, ...]] = (
    Family(
        arch="lfm2", model_type="lfm2", architecture="Lfm2ForCausalLM", modules=_SHORT_CONVOLUTION, fields=(_KERNEL,),
        fixed={"conv_bias": False}, norm="norm_eps", epsilon=1e-5, theta=1e6, tied=True, hybrid="conv",
        defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="lfm2moe", model_type="lfm2_moe", architecture="Lfm2MoeForCausalLM",
        modules=(*_SHORT_CONVOLUTION, *_SHORT_CONVOLUTION_EXPERTS),
        fields=(
            _KERNEL, *MLP_EXPERT_COUNTS, EXPERT_WIDTH,
            Field("num_dense_layers", Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "natural", 2, absent=0),
        ),
        constants={Keys.LLM.EXPERT_GATING_FUNC: int(ExpertGatingFuncType.SIGMOID)},
        fixed={"conv_bias": False, "norm_topk_prob": True, "use_expert_bias": True, "routed_scaling_factor": 1.0},
        norm="norm_eps", epsilon=1e-5, theta=1e6, tied=True, hybrid="conv", defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="mamba", model_type="mamba", architecture="MambaForCausalLM",
        modules=(*_BACKBONE, *_mamba("backbone.layers.{}.mixer")), constants={Keys.SSM.DT_B_C_RMS: False},
        state=StateNames(conv=("conv_kernel", 4), size=("state_size", 16), expand=("expand", 2), rank=("time_step_rank", "auto")),
        fixed={**SILU, "use_bias": False, "use_conv_bias": True}, ignored=("intermediate_size",),
        norm="layer_norm_epsilon", epsilon=1e-5, rope=False,
        tied=True, attention=False,
    ),
    Family(
        arch="mamba", model_type="falcon_mamba", architecture="FalconMambaForCausalLM",
        modules=(*_BACKBONE, *_mamba("backbone.layers.{}.mixer")), constants={Keys.SSM.DT_B_C_RMS: True},
        state=StateNames(conv=("conv_kernel", 4), size=("state_size", 16), expand=("expand", 2), rank=("time_step_rank", "auto")),
        fixed={**SILU, "use_bias": False, "use_conv_bias": True, "mixer_rms_eps": 1e-6}, ignored=("intermediate_size",),
        norm="layer_norm_epsilon", epsilon=1e-5, rope=False,
        tied=True, attention=False,
    ),
    Family(
        arch="mamba2", model_type="mamba2", architecture="Mamba2ForCausalLM",
        modules=(*_BACKBONE, *_mamba2("backbone.layers.{}.mixer", "n_groups")),
        state=StateNames(
            conv=("conv_kernel", 4), size=("state_size", 128), expand=("expand", 2), heads=("num_heads", 128), width=("head_dim", 64),
            groups=("n_groups", 8),
        ),
        fixed={**SILU, "use_bias": False, "use_conv_bias": True}, ignored=("intermediate_size",),
        norm="layer_norm_epsilon", epsilon=1e-5, rope=False,
        attention=False,
    ),
    Family(
        arch="jamba", model_type="jamba", architecture="JambaForCausalLM",
        modules=(
            *modules_of("model.embed_tokens model.final_layernorm lm_head", "model.layers.{}", f"{ATTENTION} input_layernorm"),
            *_mamba("model.layers.{}.mamba"),
            of_layer("mamba.dt_layernorm", tensors=(MODEL_TENSOR.SSM_DT_NORM,)),
            of_layer("mamba.b_layernorm", tensors=(MODEL_TENSOR.SSM_B_NORM,)),
            of_layer("mamba.c_layernorm", tensors=(MODEL_TENSOR.SSM_C_NORM,)),
            of_layer("pre_ff_layernorm", tensors=(MODEL_TENSOR.FFN_NORM,)),
            of_layer("feed_forward.gate_proj", tensors=(MODEL_TENSOR.FFN_GATE,)),
            of_layer("feed_forward.up_proj", tensors=(MODEL_TENSOR.FFN_UP,)),
            of_layer("feed_forward.down_proj", tensors=(MODEL_TENSOR.FFN_DOWN,)),
            of_layer("feed_forward.router", tensors=(MODEL_TENSOR.FFN_GATE_INP,)),
            *stacked_experts("feed_forward", "gate_proj", "up_proj", "down_proj"),
        ),
        fields=(
            Field("num_experts", Keys.LLM.EXPERT_COUNT, default=16),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=2),
        ),
        state=StateNames(
            conv=("mamba_d_conv", 4), size=("mamba_d_state", 16), expand=("mamba_expand", 2), rank=("mamba_dt_rank", "auto"),
        ),
        fixed={**SILU, "mamba_conv_bias": True, "mamba_proj_bias": False}, rope=False, hybrid="mamba", defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="falcon-h1", model_type="falcon_h1", architecture="FalconH1ForCausalLM",
        modules=(
            Module("model.embed_tokens", Multiplied(("embedding_multiplier",))),
            Module("model.final_layernorm", tensors=(MODEL_TENSOR.OUTPUT_NORM,)),
            Module("lm_head", Multiplied(("lm_head_multiplier",)), (MODEL_TENSOR.OUTPUT,)),
            of_layer("input_layernorm"),
            of_layer("self_attn.q_proj", Multiplied(("attention_in_multiplier",))),
            of_layer("self_attn.k_proj", Multiplied(("key_multiplier", "attention_in_multiplier"))),
            of_layer("self_attn.v_proj", Multiplied(("attention_in_multiplier",))),
            of_layer("self_attn.o_proj", Multiplied(("attention_out_multiplier",))),
            *(
                module for module in _mamba2("model.layers.{}.mamba", "mamba_n_groups")
                if not module.name.endswith((".norm", "in_proj", "out_proj"))
            ),
            of_layer("mamba.in_proj", Multiplied(("ssm_in_multiplier",), "ssm_multipliers", _FALCON_PARTS), (MODEL_TENSOR.SSM_IN,)),
            of_layer("mamba.out_proj", Multiplied(("ssm_out_multiplier",)), (MODEL_TENSOR.SSM_OUT,)),
            of_layer("pre_ff_layernorm.weight", tensors=(MODEL_TENSOR.FFN_NORM,), leaf=""),
            of_layer("feed_forward.gate_proj", Multiplied(("mlp_multipliers.0",)), (MODEL_TENSOR.FFN_GATE,)),
            of_layer("feed_forward.up_proj", tensors=(MODEL_TENSOR.FFN_UP,)),
            of_layer("feed_forward.down_proj", Multiplied(("mlp_multipliers.1",)), (MODEL_TENSOR.FFN_DOWN,)),
        ),
        state=StateNames(
            conv=("mamba_d_conv", 4), size=("mamba_d_state", 256), inner=("mamba_d_ssm", 1024), heads=("mamba_n_heads", 128),
            width=("mamba_d_head", "auto"), groups=("mamba_n_groups", 1),
        ),
        fixed={
            **SILU, "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_rms_norm": False, "projectors_bias": False,
            "attention_bias": False, "mlp_bias": False,
        },
        # What they multiply is stored multiplied.
        ignored=("embedding_multiplier",), epsilon=1e-5, head_dim=True, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="nemotron_h", model_type="nemotron_h", architecture="NemotronHForCausalLM",
        modules=(*_NEMOTRON, _alone("up_proj", MODEL_TENSOR.FFN_UP), _alone("down_proj", MODEL_TENSOR.FFN_DOWN)),
        state=_NEMOTRON_STATE, fixed=_NEMOTRON_FIXED, norm="layer_norm_epsilon", epsilon=1e-5, head_dim=128, rope=False,
        hybrid="linear_attention", alone="mlp", ahead=True, defaults={"num_key_value_heads": 8},
        ignored=tuple(field.name for field in _NEMOTRON_EXPERTS),
    ),
    Family(
        arch="nemotron_h_moe", model_type="nemotron_h", architecture="NemotronHForCausalLM",
        modules=(
            *_NEMOTRON, _alone("gate", MODEL_TENSOR.FFN_GATE_INP),
            _alone("gate.e_score_correction_bias", MODEL_TENSOR.FFN_EXP_PROBS_B, leaf="bias"),
            _alone("experts.{expert}.up_proj", MODEL_TENSOR.FFN_UP_EXP), _alone("experts.{expert}.down_proj", MODEL_TENSOR.FFN_DOWN_EXP),
            _alone("shared_experts.up_proj", MODEL_TENSOR.FFN_UP_SHEXP), _alone("shared_experts.down_proj", MODEL_TENSOR.FFN_DOWN_SHEXP),
            _alone("fc1_latent_proj", MODEL_TENSOR.MOE_LATENT_DOWN), _alone("fc2_latent_proj", MODEL_TENSOR.MOE_LATENT_UP),
        ),
        fields=_NEMOTRON_EXPERTS, state=_NEMOTRON_STATE, fixed=_NEMOTRON_FIXED, norm="layer_norm_epsilon", epsilon=1e-5, head_dim=128,
        rope=False, hybrid="linear_attention", alone="moe", mlp=False, ahead=True, ignored=("intermediate_size",),
        defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="qwen3next", model_type="qwen3_next", architecture="Qwen3NextForCausalLM",
        modules=(
            *_DELTA, *_DELTA_EXPERTS,
            of_layer("linear_attn.in_proj_qkvz", ByKeyHead(), (MODEL_TENSOR.ATTN_QKV, MODEL_TENSOR.ATTN_GATE)),
            # Files of before it was ordered anew.
            of_layer("linear_attn.in_proj_qkvz", tensors=(MODEL_TENSOR.SSM_IN,), written=False),
            of_layer("linear_attn.in_proj_ba", tensors=(MODEL_TENSOR.SSM_BETA_ALPHA,)),
            of_layer("linear_attn.conv1d", Depthwise(), (MODEL_TENSOR.SSM_CONV1D,)),
            of_layer("linear_attn.A_log", NegativeExponent(), (MODEL_TENSOR.SSM_A,), ""),
            of_layer("linear_attn.dt_bias", tensors=(MODEL_TENSOR.SSM_DT,), leaf="bias"),
            of_layer("linear_attn.out_proj", tensors=(MODEL_TENSOR.SSM_OUT,)),
        ),
        fields=_delta_experts(512, 10), state=_DELTA_STATE,
        # llama.cpp makes the chosen experts' weights sum to 1.
        fixed={**SILU, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False},
        partial=0.25, head_dim=256, hybrid="linear_attention", interval=4, ahead=True,
        defaults={"num_key_value_heads": 2, "intermediate_size": 5632},
    ),
    Family(
        arch="qwen35", model_type="qwen3_5_text", architecture="Qwen3_5ForCausalLM",
        modules=(*_DELTA, *(of_layer(name) for name in GATED.split()), *_VALUE_HEADS), state=_DELTA_STATE,
        fixed={**SILU, "attention_bias": False}, partial=0.25, head_dim=256, sections=(11, 11, 10),
        hybrid="linear_attention", interval=4, ahead=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="qwen35moe", model_type="qwen3_5_moe_text", architecture="Qwen3_5MoeForCausalLM",
        modules=(*_DELTA, *_DELTA_EXPERTS, *_VALUE_HEADS), fields=_delta_experts(256, 8), state=_DELTA_STATE,
        fixed={**SILU, "attention_bias": False}, partial=0.25, head_dim=256, sections=(11, 11, 10),
        hybrid="linear_attention", interval=4, ahead=True, mlp=False, defaults={"num_key_value_heads": 2},
    ),
    Family(
        # Without experts the MLP that all tokens share is the only one.
        arch="granitehybrid", model_type="granitemoehybrid", architecture="GraniteMoeHybridForCausalLM", marks=("ffn_gate.weight",),
        modules=(
            *_GRANITE, of_layer("shared_mlp.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE, MODEL_TENSOR.FFN_UP)),
            of_layer("shared_mlp.output_linear", tensors=(MODEL_TENSOR.FFN_DOWN,)),
        ),
        fields=(*GRANITE_SCALES, Field("shared_intermediate_size", Keys.LLM.FEED_FORWARD_LENGTH, default=1024)), state=_GRANITE_STATE,
        fixed={**_GRANITE_FIXED, "num_local_experts": 0, "attention_bias": False}, ignored=("num_experts_per_tok",),
        hybrid="linear_attention",
    ),
    Family(
        arch="granitehybrid", model_type="granitemoehybrid", architecture="GraniteMoeHybridForCausalLM",
        modules=(
            *_GRANITE, *GRANITE_EXPERTS,
            of_layer("shared_mlp.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE_SHEXP, MODEL_TENSOR.FFN_UP_SHEXP)),
            of_layer("shared_mlp.output_linear", tensors=(MODEL_TENSOR.FFN_DOWN_SHEXP,)),
        ),
        fields=(
            *GRANITE_SCALES, *EXPERT_COUNTS,
            Field("shared_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, default=1024),
        ),
        state=_GRANITE_STATE, fixed={**_GRANITE_FIXED, "attention_bias": False}, hybrid="linear_attention",
    ),
)  # fmt: skip
