"""Gemma's families of GGUF: norms by 1 and more, windows, shared keys and values, and in Gemma 4 heads of two widths."""

from __future__ import annotations

from typing import Any, Final

import attrs
from gguf.constants import MODEL_TENSOR, Keys

from llmasos_format_gguf.family import Family, Field, Module
from llmasos_format_gguf.layouts import Halves, PlusOne
from llmasos_format_gguf.modules import LLAMA, QK_NORMS, modules_of, of_layer, with_changes
from llmasos_format_gguf.sharing import TABLE

_GEMMA: Final = tuple(attrs.evolve(module, layout=PlusOne()) if module.name.endswith("norm") else module for module in LLAMA)
_GEMMA2: Final = with_changes(_GEMMA, of_layer("pre_feedforward_layernorm", PlusOne()), of_layer("post_feedforward_layernorm", PlusOne()))
_FOUR_NORMS: Final = (
    *with_changes(LLAMA, of_layer("pre_feedforward_layernorm"), of_layer("post_feedforward_layernorm")), *QK_NORMS,
)  # fmt: skip
_PER_LAYER: Final = (
    *_FOUR_NORMS,
    *modules_of(
        f"{TABLE} model.per_layer_model_projection model.per_layer_projection_norm", "model.layers.{}",
        "per_layer_input_gate per_layer_projection post_per_layer_input_norm",
    ),
)  # fmt: skip
_GEMMA3N: Final = (
    *_PER_LAYER,
    *(of_layer(f"altup.{name}") for name in ("correction_coefs", "prediction_coefs", "modality_router", "router_norm")),
    of_layer("altup.correct_output_scale", leaf="weight"),
    *(of_layer(f"laurel.{name}") for name in ("linear_left", "linear_right", "post_laurel_norm")),
    Module("model.altup_projections.{expert}", tensors=(MODEL_TENSOR.ALTUP_PROJ,)),
    Module("model.altup_unembed_projections.{expert}", tensors=(MODEL_TENSOR.ALTUP_UNEMBD_PROJ,)),
)
_SCALAR: Final = of_layer("layer_scalar", leaf="weight")
_GEMMA4: Final = (
    *_PER_LAYER,
    *modules_of(
        "", "model.layers.{}",
        "router.proj pre_feedforward_layernorm_2 post_feedforward_layernorm_1 post_feedforward_layernorm_2",
    ),
    _SCALAR,
    of_layer("router.scale", tensors=(MODEL_TENSOR.FFN_GATE_INP,), leaf="scale"),
    of_layer("router.per_expert_scale", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,), leaf="scale"),
    of_layer("experts.gate_up_proj", leaf="weight"), of_layer("experts.down_proj", leaf="weight"),
    # Files whose experts are stored as those of other families.
    of_layer("experts.gate_up_proj", Halves(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "weight", written=False),
)  # fmt: skip
_CAP: Final = Field("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "number", None)
_SHARED: Final = Field("num_kv_shared_layers", Keys.Attention.SHARED_KV_LAYERS, "natural", 0)
_TWO_WIDTHS: Final[dict[str, Any]] = {
    "fixed": {"hidden_activation": "gelu_pytorch_tanh"}, "head_dim": 256, "windows": 6, "theta": 1e6, "local_theta": 1e4,
    "scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.25}, "tied": True, "shares": True, "two_widths": True,
    "defaults": {"num_key_value_heads": 4},
}  # fmt: skip

GEMMAS: Final[tuple[Family, ...]] = (
    Family(
        arch="gemma", model_type="gemma", architecture="GemmaForCausalLM", modules=_GEMMA,
        fixed={"hidden_act": "gelu_pytorch_tanh"}, present={"attention_bias": "attn_q.bias"}, head_dim=256, tied=True,
    ),
    Family(
        arch="gemma2", model_type="gemma2", architecture="Gemma2ForCausalLM", modules=_GEMMA2,
        fields=(
            Field("attn_logit_softcapping", Keys.LLM.ATTN_LOGIT_SOFTCAPPING, "number", 50.0),
            Field("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "number", 30.0),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096),
        ),
        fixed={"hidden_activation": "gelu_pytorch_tanh"}, present={"attention_bias": "attn_q.bias"}, head_dim=256, windows=2,
        tied=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="gemma3", model_type="gemma3_text", architecture="Gemma3ForCausalLM", modules=(*_GEMMA2, *(
            attrs.evolve(module, layout=PlusOne()) for module in QK_NORMS
        )),
        fields=(
            Field("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "number", None),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096),
        ),
        fixed={"hidden_activation": "gelu_pytorch_tanh"}, present={"attention_bias": "attn_q.bias"}, head_dim=256, windows=6,
        theta=1e6, local_theta=1e4, tied=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="gemma3n", model_type="gemma3n_text", architecture="Gemma3nForCausalLM", modules=_GEMMA3N,
        fields=(
            Field("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "number", 30.0),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=512),
            Field("num_kv_shared_layers", Keys.Attention.SHARED_KV_LAYERS, "natural", 15),
        ),
        # llama.cpp has all of these as they are in published models.
        fixed={
            "hidden_activation": "gelu_pytorch_tanh", "altup_active_idx": 0, "altup_num_inputs": 4, "altup_correct_scale": True,
            "laurel_rank": 64, "hidden_size_per_layer_input": 256,
        },
        constants={
            Keys.LLM.ALTUP_ACTIVE_IDX: 0, Keys.LLM.ALTUP_NUM_INPUTS: 4, Keys.LLM.EMBD_LENGTH_PER_LAYER_INP: 256,
        },
        present={"attention_bias": "attn_q.bias"}, head_dim=256, windows=5, theta=1e6, local_theta=1e4, tied=True, shares=True,
        defaults={"num_key_value_heads": 2, "intermediate_size": 16384},
    ),
    Family(
        # Gemma 4 without embeddings for each layer and without experts; what is not named so is read as the next.
        arch="gemma4", model_type="gemma4_unified_text", architecture="Gemma4UnifiedForCausalLM", modules=(*_FOUR_NORMS, _SCALAR),
        fields=(_CAP, Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=1024), _SHARED),
        constants={Keys.LLM.EMBD_LENGTH_PER_LAYER_INP: 0}, present={"attention_bias": "attn_q.bias"}, title="unified", **_TWO_WIDTHS,
    ),
    Family(
        arch="gemma4", model_type="gemma4_text", architecture="Gemma4ForCausalLM", modules=_GEMMA4,
        fields=(
            _CAP, Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=512), _SHARED,
            Field("hidden_size_per_layer_input", Keys.LLM.EMBD_LENGTH_PER_LAYER_INP, "natural", 256, absent=0, off=0),
            Field("num_experts", Keys.LLM.EXPERT_COUNT, default=None),
            Field("top_k_experts", Keys.LLM.EXPERT_USED_COUNT, default=None),
            Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, default=None),
        ),
        present={"attention_bias": "attn_q.bias", "enable_moe_block": "ffn_gate_inp.weight"}, **_TWO_WIDTHS,
    ),
)  # fmt: skip
