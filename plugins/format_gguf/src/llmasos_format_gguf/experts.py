"""Families of GGUF whose first layers have an MLP and whose others have experts."""

from __future__ import annotations

from typing import Final

from gguf.constants import MODEL_TENSOR, ExpertGatingFuncType, Keys

from llmasos_format_gguf.family import Family, Field
from llmasos_format_gguf.layouts import HalvesOfColumns, LatentKeysAndValues, OneRow, Transposed
from llmasos_format_gguf.modules import (
    EXPERT_WIDTH,
    GATED,
    LLAMA,
    MLP_EXPERTS,
    QK_NORMS,
    SILU,
    of_layer,
    stacked_experts,
    with_changes,
)

_SHARED: Final = tuple(of_layer(f"mlp.shared_experts.{name}_proj") for name in ("gate", "up", "down"))
_CHOICE_BIAS: Final = of_layer("mlp.gate.e_score_correction_bias", tensors=(MODEL_TENSOR.FFN_EXP_PROBS_B,), leaf="bias")
_LATENT: Final = (
    *with_changes(LLAMA, without="self_attn.k_proj self_attn.v_proj"),
    *MLP_EXPERTS, *_SHARED,
    *(of_layer(f"self_attn.{name}") for name in ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm")),
    of_layer(
        "self_attn.kv_b_proj", LatentKeysAndValues("num_attention_heads", "qk_nope_head_dim"),
        (MODEL_TENSOR.ATTN_K_B, MODEL_TENSOR.ATTN_V_B),
    ),
    # Files of before the two were split.
    of_layer("self_attn.kv_b_proj", tensors=(MODEL_TENSOR.ATTN_KV_B,), written=False),
)  # fmt: skip

_JOINT: Final = (
    *(module for module in _LATENT if "expert" not in module.name and not module.name.endswith(("mlp.gate", "kv_b_proj", ".q_proj"))),
    of_layer("self_attn.kv_b_proj", tensors=(MODEL_TENSOR.ATTN_KV_B,)),
)

_SIGMOID: Final = {Keys.LLM.EXPERT_GATING_FUNC: int(ExpertGatingFuncType.SIGMOID)}
_SOFTMAX: Final = {Keys.LLM.EXPERT_GATING_FUNC: int(ExpertGatingFuncType.SOFTMAX)}
_USED: Final = Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT)

_HUNYUAN: Final = (
    *LLAMA, of_layer("self_attn.query_layernorm", tensors=(MODEL_TENSOR.ATTN_Q_NORM,)),
    of_layer("self_attn.key_layernorm", tensors=(MODEL_TENSOR.ATTN_K_NORM,)),
)  # fmt: skip


def _routed(shared: int | None, dense: int, scale: float) -> tuple[Field, ...]:
    """How many experts there are, with the defaults of a model type."""
    return (
        Field("n_routed_experts", Keys.LLM.EXPERT_COUNT), _USED, EXPERT_WIDTH,
        Field("n_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=shared),
        Field("first_k_dense_replace", Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "natural", dense, absent=0),
        Field("routed_scaling_factor", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", scale, absent=1.0),
    )  # fmt: skip


def _groups(count: int | None, used: int | None, absent: int | None) -> tuple[Field, ...]:
    """Groups of experts of which some are left out before the experts are chosen."""
    return (
        Field("n_group", Keys.LLM.EXPERT_GROUP_COUNT, default=count, absent=absent),
        Field("topk_group", Keys.LLM.EXPERT_GROUP_USED_COUNT, default=used, absent=absent),
    )


def _normed(default: bool) -> Field:
    """Whether the weights of the chosen experts are made to sum to 1."""
    return Field("norm_topk_prob", Keys.LLM.EXPERT_WEIGHTS_NORM, "flag", default, absent=False)


EXPERTS: Final[tuple[Family, ...]] = (
    Family(
        # Before version 3 of DeepSeek files did not say how experts are chosen.
        arch="deepseek2", model_type="deepseek_v2", architecture="DeepseekV2ForCausalLM", modules=_LATENT,
        fields=(*_routed(2, 0, 1.0), *_groups(None, None, None)), constants={**_SOFTMAX, Keys.LLM.EXPERT_WEIGHTS_NORM: False},
        fixed={**SILU, "norm_topk_prob": False, "attention_bias": False, "mlp_bias": False}, latent=True,
    ),
    Family(
        arch="deepseek2", model_type="deepseek_v3", architecture="DeepseekV3ForCausalLM", modules=(*_LATENT, _CHOICE_BIAS),
        fields=(*_routed(1, 3, 2.5), *_groups(8, 4, 1), _normed(True)), constants=_SIGMOID,
        fixed={**SILU, "rope_interleave": True, "attention_bias": False}, latent=True, ahead=True,
    ),
    Family(
        arch="deepseek2", model_type="glm4_moe_lite", architecture="Glm4MoeLiteForCausalLM", title="glm",
        modules=(*_LATENT, _CHOICE_BIAS),
        fields=(
            Field("n_routed_experts", Keys.LLM.EXPERT_COUNT, default=64),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=4),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=1536),
            Field("n_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=1),
            Field("routed_scaling_factor", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", 1.8, absent=1.0),
            *_groups(1, 1, 1), _normed(True),
        ),
        constants=_SIGMOID, fixed={**SILU, "rope_interleave": True, "attention_bias": False}, ignored=("first_k_dense_replace",),
        latent=True, ahead=True, dense=1, epsilon=1e-5,
    ),
    Family(
        arch="deepseek2", model_type="youtu", architecture="YoutuForCausalLM", title="youtu",
        modules=tuple(module for module in _LATENT if "expert" not in module.name and not module.name.endswith("mlp.gate")),
        # No layer has experts; llama.cpp wants their sizes all the same.
        written={
            Keys.LLM.LEADING_DENSE_BLOCK_COUNT: ("num_hidden_layers",), Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: ("intermediate_size",),
            Keys.LLM.EXPERT_SHARED_COUNT: (),
        },
        fixed={**SILU, "rope_interleave": True, "attention_bias": False}, latent=True, tied=True,
    ),
    Family(
        # llama.cpp takes how the embedding, the branches and the logits are scaled from the architecture's name.
        arch="minicpm3", model_type="minicpm3", architecture="MiniCPM3ForCausalLM", modules=_JOINT,
        fixed={**SILU, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256, "attention_bias": False, "mlp_bias": False},
        latent=True, joint=True, epsilon=1e-5, tied=True,
    ),
    Family(
        arch="exaone-moe", model_type="exaone_moe", architecture="ExaoneMoeForCausalLM",
        modules=(
            *LLAMA, *MLP_EXPERTS, *_SHARED, *QK_NORMS,
            of_layer("mlp.e_score_correction_bias", tensors=(MODEL_TENSOR.FFN_EXP_PROBS_B,), leaf="bias"),
        ),
        fields=(
            Field("num_experts", Keys.LLM.EXPERT_COUNT, default=64),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=1024),
            Field("num_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=1),
            Field("routed_scaling_factor", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", 2.5, absent=1.0),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096, off=0),
            *_groups(1, 1, 1), _normed(True),
        ),
        written={Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH: ("moe_intermediate_size", "num_shared_experts")},
        constants=_SIGMOID, fixed=SILU, ignored=("first_k_dense_replace",), dense=1, epsilon=1e-5, head_dim=True, windows=4, ahead=True,
    ),
    Family(
        # llama.cpp multiplies the embedding in all of them, and takes every fourth layer as the one without a window.
        arch="afmoe", model_type="afmoe", architecture="AfmoeForCausalLM",
        modules=(
            *LLAMA, *QK_NORMS, *_SHARED, *stacked_experts("mlp", "gate_proj", "up_proj", "down_proj"),
            of_layer("self_attn.gate_proj", tensors=(MODEL_TENSOR.ATTN_GATE,)),
            of_layer("pre_mlp_layernorm", tensors=(MODEL_TENSOR.FFN_NORM,)),
            of_layer("post_mlp_layernorm", tensors=(MODEL_TENSOR.FFN_POST_NORM,)),
            of_layer("mlp.router.gate", tensors=(MODEL_TENSOR.FFN_GATE_INP,)),
            of_layer("mlp.expert_bias", tensors=(MODEL_TENSOR.FFN_EXP_PROBS_B,), leaf="bias"),
        ),
        fields=(
            Field("num_experts", Keys.LLM.EXPERT_COUNT, default=64),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=6),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=1408),
            Field("num_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=2),
            Field("num_dense_layers", Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "natural", 1, absent=0),
            Field("route_scale", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", 1.0),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=1024),
        ),
        constants={**_SIGMOID, Keys.LLM.EXPERT_WEIGHTS_NORM: True}, fixed={**SILU, "mup_enabled": True, "global_attn_every_n_layers": 4},
        present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, head_dim=128, windows=4,
    ),
    Family(
        arch="glm4moe", model_type="solar_open", architecture="SolarOpenForCausalLM", title="solar",
        modules=(*with_changes(LLAMA, without=GATED), *MLP_EXPERTS, *_SHARED, _CHOICE_BIAS),
        fields=(
            Field("n_routed_experts", Keys.LLM.EXPERT_COUNT, default=128),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=1280),
            Field("n_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=1),
            Field("routed_scaling_factor", Keys.LLM.EXPERT_WEIGHTS_SCALE, "number", 1.0, absent=1.0),
            *_groups(1, 1, 1), _normed(True),
        ),
        constants=_SIGMOID, fixed=SILU, present={"attention_bias": "attn_q.bias"}, ignored=("intermediate_size",), epsilon=1e-5,
        partial=1.0, head_dim=128, theta=1e6, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="glm4moe", model_type="glm4_moe", architecture="Glm4MoeForCausalLM",
        modules=(*LLAMA, *MLP_EXPERTS, *_SHARED, *QK_NORMS, _CHOICE_BIAS),
        fields=(*_routed(1, 1, 1.0), *_groups(1, 1, 1), _normed(True)), constants=_SIGMOID, fixed=SILU,
        present={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"}, epsilon=1e-5, partial=0.5, head_dim=True,
        ahead=True, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="dots1", model_type="dots1", architecture="Dots1ForCausalLM",
        modules=(*LLAMA, *MLP_EXPERTS, *_SHARED, *QK_NORMS, _CHOICE_BIAS),
        fields=(*_routed(None, 0, 1.0), *_groups(1, 1, 1), _normed(False)), constants=_SIGMOID,
        fixed={**SILU, "sliding_window": None}, present={"attention_bias": "attn_q.bias"}, head_dim=True,
    ),
    Family(
        # llama.cpp takes the sizes of chunks and of attention's temperature from the architecture's name.
        arch="llama4", model_type="llama4_text", architecture="Llama4ForCausalLM",
        modules=(
            *with_changes(LLAMA, without=GATED),
            of_layer("feed_forward.gate_proj", tensors=(MODEL_TENSOR.FFN_GATE,)),
            of_layer("feed_forward.up_proj", tensors=(MODEL_TENSOR.FFN_UP,)),
            of_layer("feed_forward.down_proj", tensors=(MODEL_TENSOR.FFN_DOWN,)),
            of_layer("feed_forward.router", tensors=(MODEL_TENSOR.FFN_GATE_INP,)),
            of_layer(
                "feed_forward.experts.gate_up_proj", HalvesOfColumns(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "weight",
            ),
            of_layer("feed_forward.experts.down_proj", Transposed(), (MODEL_TENSOR.FFN_DOWN_EXP,), "weight"),
            of_layer("feed_forward.shared_expert.gate_proj", tensors=(MODEL_TENSOR.FFN_GATE_SHEXP,)),
            of_layer("feed_forward.shared_expert.up_proj", tensors=(MODEL_TENSOR.FFN_UP_SHEXP,)),
            of_layer("feed_forward.shared_expert.down_proj", tensors=(MODEL_TENSOR.FFN_DOWN_SHEXP,)),
        ),
        rename={"intermediate_size": "intermediate_size_mlp"},
        fields=(
            Field("intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=8192),
            Field("num_local_experts", Keys.LLM.EXPERT_COUNT, default=16),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=1),
            Field("interleave_moe_layer_step", Keys.LLM.INTERLEAVE_MOE_LAYER_STEP, default=1),
        ),
        fixed={
            **SILU, "attention_bias": False, "no_rope_layer_interval": 4, "attention_chunk_size": 8192, "attn_temperature_tuning": True,
            "floor_scale": 8192, "attn_scale": 0.1,
        },
        epsilon=1e-5, head_dim=128, theta=5e5, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="mimo2", model_type="mimo_v2_flash", architecture="MiMoV2FlashForCausalLM",
        modules=(
            *with_changes(LLAMA, of_layer("post_attention_layernorm", tensors=(MODEL_TENSOR.FFN_NORM,))), *MLP_EXPERTS, _CHOICE_BIAS,
            of_layer("self_attn.attention_sink_bias", tensors=(MODEL_TENSOR.ATTN_SINKS,), leaf="weight"),
        ),
        fields=(
            Field("n_routed_experts", Keys.LLM.EXPERT_COUNT, default=256),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=2048),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=129),
            # The gguf package has no name for it.
            Field("attention_value_scale", "{arch}.attention.value_scale", "number", 0.707, absent=None),
        ),
        fixed={
            **SILU, "attention_bias": False, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
        },
        constants=_SIGMOID, epsilon=1e-5, head_dim=192, value_dim=("v_head_dim", 128), theta=5e6, local_theta=1e4, partial=0.334,
        windows=6, opening=1, local_groups=2, dense=1, ahead=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="hunyuan-dense", model_type="hunyuan_v1_dense", architecture="HunYuanDenseV1ForCausalLM", modules=_HUNYUAN, fixed=SILU,
        present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, head_dim=True, alpha=True,
    ),
    Family(
        arch="hunyuan-moe", model_type="hunyuan_v1_moe", architecture="HunYuanMoEV1ForCausalLM",
        modules=(
            *with_changes(_HUNYUAN, without=GATED),
            *(module for module in MLP_EXPERTS if module.name != "model.layers.{}.mlp.gate"), of_layer("mlp.gate.wg"),
            *(of_layer(f"mlp.shared_mlp.{name}_proj") for name in ("gate", "up", "down")),
        ),
        fields=(
            Field("num_experts", Keys.LLM.EXPERT_COUNT, default=1), Field("moe_topk", Keys.LLM.EXPERT_USED_COUNT, default=1),
        ),
        written={
            Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: ("intermediate_size",),
            Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH: ("intermediate_size",),
        },
        fixed=SILU, ignored=("moe_intermediate_size",), present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, head_dim=True,
        alpha=True,
    ),
    Family(
        arch="ernie4_5-moe", model_type="ernie4_5_moe", architecture="Ernie4_5_MoeForCausalLM",
        modules=(
            *LLAMA, *MLP_EXPERTS, *_SHARED,
            of_layer("mlp.moe_statics.e_score_correction_bias", OneRow(), (MODEL_TENSOR.FFN_EXP_PROBS_B,), "bias"),
        ),
        fields=(
            Field("moe_num_experts", Keys.LLM.EXPERT_COUNT, default=64), Field("moe_k", Keys.LLM.EXPERT_USED_COUNT, default=6),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=1536),
            Field("moe_num_shared_experts", Keys.LLM.EXPERT_SHARED_COUNT, default=2),
            Field("moe_layer_start_index", Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "natural", 1, absent=0),
            Field("moe_layer_interval", Keys.LLM.INTERLEAVE_MOE_LAYER_STEP, default=1),
        ),
        written={Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH: ("moe_intermediate_size", "moe_num_shared_experts")},
        fixed={**SILU, "moe_norm_min": 1e-12}, present={"use_bias": "attn_q.bias"}, epsilon=1e-5, theta=5e5, tied=True,
        defaults={"num_key_value_heads": 4},
    ),
)  # fmt: skip
