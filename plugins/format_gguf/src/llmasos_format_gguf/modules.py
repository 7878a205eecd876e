"""What families of GGUF have in common: lists of modules, config keys, and how to change them."""

from __future__ import annotations

from typing import Any, Final

from gguf.constants import MODEL_TENSOR, Keys

from llmasos_format_gguf.family import Field, Module
from llmasos_format_gguf.layouts import Halves, Interleaved, RowsMoved


def modules_of(top: str, layer: str, names: str) -> tuple[Module, ...]:
    # The head by its own name: the package's table leaves it out of architectures that llama.cpp only knows tied.
    outside = [Module(name, tensors=(MODEL_TENSOR.OUTPUT,) if name in ("lm_head", "embed_out") else ()) for name in top.split()]
    return tuple(outside + [Module(f"{layer}.{name}") for name in names.split()])


def with_changes(modules: tuple[Module, ...], *changes: Module, without: str = "") -> tuple[Module, ...]:
    """``modules`` with some replaced or added, and some left out."""
    replaced = {module.name: module for module in changes}
    gone = {f"model.layers.{{}}.{name}" for name in without.split()}
    kept = [replaced.pop(module.name, module) for module in modules if module.name not in gone]
    return (*kept, *replaced.values())


def of_layer(name: str, *args: Any, **more: Any) -> Module:
    return Module(f"model.layers.{{}}.{name}", *args, **more)


TOP: Final = "model.embed_tokens model.norm lm_head"
ATTENTION: Final = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
NORMS: Final = "input_layernorm post_attention_layernorm"
GATED: Final = "mlp.gate_proj mlp.up_proj mlp.down_proj"
QK_NORMS: Final = (of_layer("self_attn.q_norm"), of_layer("self_attn.k_norm"))

#: What Llama and most after it have.
LLAMA: Final = modules_of(TOP, "model.layers.{}", f"{ATTENTION} {NORMS} {GATED}")
ROTATED: Final = (
    of_layer("self_attn.q_proj", RowsMoved(Interleaved("num_attention_heads"))),
    of_layer("self_attn.k_proj", RowsMoved(Interleaved("num_key_value_heads"))),
)
LLAMA_ROTATED: Final = with_changes(LLAMA, *ROTATED)
POST_NORMS: Final = (of_layer("post_feedforward_layernorm"),)


def stacked_experts(prefix: str, gate: str, up: str, down: str) -> tuple[Module, ...]:
    """Experts whose matrices Hugging Face stores one by one and GGUF stacked."""
    at = f"{prefix}.experts.{{expert}}"
    return (
        of_layer(f"{at}.{gate}", tensors=(MODEL_TENSOR.FFN_GATE_EXP,)),
        of_layer(f"{at}.{up}", tensors=(MODEL_TENSOR.FFN_UP_EXP,)),
        of_layer(f"{at}.{down}", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,)),
    )


MLP_EXPERTS: Final = (of_layer("mlp.gate"), *stacked_experts("mlp", "gate_proj", "up_proj", "down_proj"))
GRANITE_EXPERTS: Final = (
    of_layer("block_sparse_moe.router.layer"),
    of_layer("block_sparse_moe.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP)),
    of_layer("block_sparse_moe.output_linear"),
)
WINDOW: Final = Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None)
EXPERT_COUNTS: Final = (
    Field("num_local_experts", Keys.LLM.EXPERT_COUNT),
    Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=2),
)
MLP_EXPERT_COUNTS: Final = (
    Field("num_experts", Keys.LLM.EXPERT_COUNT),
    Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT),
)
EXPERT_WIDTH: Final = Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH)
GRANITE_SCALES: Final = (
    Field("attention_multiplier", Keys.Attention.SCALE, "number", 1.0),
    Field("embedding_multiplier", Keys.LLM.EMBEDDING_SCALE, "number", 1.0),
    Field("residual_multiplier", Keys.LLM.RESIDUAL_SCALE, "number", 1.0),
    Field("logits_scaling", Keys.LLM.LOGIT_SCALE, "number", 1.0),
)
SILU: Final = {"hidden_act": "silu"}
BIASES: Final = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
