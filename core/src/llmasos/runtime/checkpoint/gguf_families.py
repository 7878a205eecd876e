"""The architectures of GGUF files that are read and written, one entry a family.

What a tensor is called in GGUF is the ``gguf`` package's to say (``gguf.tensor_mapping``); an entry lists the modules of Hugging Face's
checkpoint, how the family's layout differs, and which keys of ``config.json`` are which keys of the metadata. Facts are those of
transformers' model classes; the tests hold every default against its config classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import attrs
from gguf.constants import MODEL_TENSOR, Keys

from llmasos.runtime.checkpoint import gguf_metadata as meta
from llmasos.runtime.checkpoint.gguf_family import Family, Field, Module
from llmasos.runtime.checkpoint.gguf_header import GGUFHeader
from llmasos.runtime.checkpoint.gguf_layouts import AlternatingColumns, Grouped, Halves, Interleaved, OneRow, PlusOne, Same, Transposed
from llmasos_hookspecs import UnsupportedModel


def _modules(top: str, layer: str, names: str) -> tuple[Module, ...]:
    # The head by its own name: the package's table leaves it out of architectures that llama.cpp only knows tied.
    outside = [Module(name, tensors=(MODEL_TENSOR.OUTPUT,) if name in ("lm_head", "embed_out") else ()) for name in top.split()]
    return tuple(outside + [Module(f"{layer}.{name}") for name in names.split()])


def _with(modules: tuple[Module, ...], *changes: Module, without: str = "") -> tuple[Module, ...]:
    """``modules`` with some replaced or added, and some left out."""
    changed = {module.name: module for module in changes}
    gone = {f"model.layers.{{}}.{name}" for name in without.split()}
    kept = [changed.pop(module.name, module) for module in modules if module.name not in gone]
    return (*kept, *changed.values())


def _layer(name: str, *args: Any, **more: Any) -> Module:
    return Module(f"model.layers.{{}}.{name}", *args, **more)


_TOP: Final = "model.embed_tokens model.norm lm_head"
_ATTENTION: Final = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
_NORMS: Final = "input_layernorm post_attention_layernorm"
_GATED: Final = "mlp.gate_proj mlp.up_proj mlp.down_proj"
_QK_NORMS: Final = (_layer("self_attn.q_norm"), _layer("self_attn.k_norm"))

#: What Llama and most after it have.
_LLAMA: Final = _modules(_TOP, "model.layers.{}", f"{_ATTENTION} {_NORMS} {_GATED}")
_ROTATED: Final = (
    _layer("self_attn.q_proj", Interleaved("num_attention_heads")),
    _layer("self_attn.k_proj", Interleaved("num_key_value_heads")),
)
_LLAMA_ROTATED: Final = _with(_LLAMA, *_ROTATED)
_NO_NORMS: Final = tuple(module for module in _with(_LLAMA_ROTATED, without=_NORMS) if module.name != "model.norm")
_POST_NORMS: Final = (_layer("post_feedforward_layernorm"),)
_GEMMA: Final = tuple(attrs.evolve(module, layout=PlusOne()) if module.name.endswith("norm") else module for module in _LLAMA)
_GEMMA2: Final = _with(_GEMMA, _layer("pre_feedforward_layernorm", PlusOne()), _layer("post_feedforward_layernorm", PlusOne()))


def _experts(prefix: str, gate: str, up: str, down: str) -> tuple[Module, ...]:
    """Experts whose matrices Hugging Face stores one by one and GGUF stacked."""
    at = f"{prefix}.experts.{{expert}}"
    return (
        _layer(f"{at}.{gate}", tensors=(MODEL_TENSOR.FFN_GATE_EXP,)),
        _layer(f"{at}.{up}", tensors=(MODEL_TENSOR.FFN_UP_EXP,)),
        _layer(f"{at}.{down}", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,)),
    )


_MIXTRAL: Final = (_layer("block_sparse_moe.gate"), *_experts("block_sparse_moe", "w1", "w3", "w2"))
_MLP_EXPERTS: Final = (_layer("mlp.gate"), *_experts("mlp", "gate_proj", "up_proj", "down_proj"))
_GRANITE_EXPERTS: Final = (
    _layer("block_sparse_moe.router.layer"),
    _layer("block_sparse_moe.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP)),
    _layer("block_sparse_moe.output_linear"),
)
_GPT_OSS: Final = (
    _layer("mlp.router"),
    _layer("self_attn.sinks", leaf="weight"),
    _layer("mlp.experts.gate_up_proj", AlternatingColumns(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "weight"),
    _layer("mlp.experts.gate_up_proj_bias", AlternatingColumns(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "bias"),
    _layer("mlp.experts.down_proj", Transposed(), (MODEL_TENSOR.FFN_DOWN_EXP,), "weight"),
    _layer("mlp.experts.down_proj_bias", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,), leaf="bias"),
)


def _gpt(names: str, layer: str = "transformer.h.{}", top: str = "transformer.wte transformer.ln_f lm_head") -> tuple[Module, ...]:
    return _modules(top, layer, names)


_GPT2: Final = tuple(
    attrs.evolve(module, layout=Transposed()) if ".c_" in module.name else module
    for module in _gpt(
        "ln_1 ln_2 attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj", top="transformer.wte transformer.wpe transformer.ln_f lm_head"
    )
)
_BIGCODE: Final = tuple(attrs.evolve(module, layout=Same()) for module in _GPT2)
_GPT2_NAMES: Final = {
    "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
_FALCON: Final = _gpt(
    "mlp.dense_h_to_4h mlp.dense_4h_to_h self_attention.dense", top="transformer.word_embeddings transformer.ln_f lm_head"
)
_FALCON_QKV: Final = Module("transformer.h.{}.self_attention.query_key_value", Grouped("num_attention_heads", "num_kv_heads"))
_BLOOM: Final = (
    *_gpt(
        "input_layernorm mlp.dense_h_to_4h mlp.dense_4h_to_h self_attention.dense",
        top="transformer.word_embeddings transformer.ln_f lm_head",
    ),
    Module("transformer.word_embeddings_layernorm", tensors=(MODEL_TENSOR.TOKEN_EMBD_NORM,)),
    Module("transformer.h.{}.post_attention_layernorm", tensors=(MODEL_TENSOR.FFN_NORM,)),
    Module("transformer.h.{}.self_attention.query_key_value", Grouped("n_head", "n_head")),
)
_NEOX: Final = (
    *_gpt(
        "input_layernorm post_attention_layernorm attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
        layer="gpt_neox.layers.{}",
        top="gpt_neox.embed_in gpt_neox.final_layer_norm embed_out",
    ),
    Module("gpt_neox.layers.{}.attention.query_key_value", Grouped("num_attention_heads", "num_attention_heads")),
)

_WINDOW: Final = Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None)
_EXPERT_COUNTS: Final = (
    Field("num_local_experts", Keys.LLM.EXPERT_COUNT),
    Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=2),
)
_MLP_EXPERT_COUNTS: Final = (
    Field("num_experts", Keys.LLM.EXPERT_COUNT),
    Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT),
)
_EXPERT_WIDTH: Final = Field("moe_intermediate_size", Keys.LLM.EXPERT_FEED_FORWARD_LENGTH)
_GRANITE_SCALES: Final = (
    Field("attention_multiplier", Keys.Attention.SCALE, "number", 1.0),
    Field("embedding_multiplier", Keys.LLM.EMBEDDING_SCALE, "number", 1.0),
    Field("residual_multiplier", Keys.LLM.RESIDUAL_SCALE, "number", 1.0),
    Field("logits_scaling", Keys.LLM.LOGIT_SCALE, "number", 1.0),
)
_CLIP: Final = Field("clip_qkv", Keys.Attention.CLAMP_KQV, "number", None)
_SILU: Final = {"hidden_act": "silu"}
_BIASES: Final = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        arch="llama", model_type="mixtral", architecture="MixtralForCausalLM", marks=("ffn_gate_exps.weight",),
        modules=(*_LLAMA_ROTATED, *_MIXTRAL), fields=(*_EXPERT_COUNTS, _WINDOW), fixed=_SILU, epsilon=1e-5, head_dim=True, theta=1e6,
        unwindowed=True,
    ),
    Family(
        arch="llama", model_type="llama", architecture="LlamaForCausalLM",
        modules=_LLAMA_ROTATED, fixed=_SILU, present=_BIASES, head_dim=True,
    ),
    Family(
        arch="llama", model_type="mistral", architecture="MistralForCausalLM", modules=_LLAMA_ROTATED,
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096, absent=None),), fixed=_SILU, head_dim=True,
        defaults={"num_key_value_heads": 8}, unwindowed=True,
    ),
    Family(arch="qwen2", model_type="qwen2", architecture="Qwen2ForCausalLM", modules=_LLAMA, fixed=_SILU, head_dim=True),
    Family(
        arch="qwen3", model_type="qwen3", architecture="Qwen3ForCausalLM",
        modules=(*_LLAMA, *_QK_NORMS), fixed=_SILU, present={"attention_bias": "attn_q.bias"}, head_dim=128,
    ),
    Family(
        arch="qwen2moe", model_type="qwen2_moe", architecture="Qwen2MoeForCausalLM",
        modules=(
            *_with(_LLAMA, without=_GATED), *_MLP_EXPERTS, _layer("mlp.shared_expert_gate", OneRow()),
            *(_layer(f"mlp.shared_expert.{name}_proj") for name in ("gate", "up", "down")),
        ),
        fields=(
            *_MLP_EXPERT_COUNTS, _EXPERT_WIDTH,
            Field("shared_expert_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH),
        ),
        fixed={**_SILU, "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        present={"qkv_bias": "attn_q.bias"},
    ),
    Family(
        arch="qwen3moe", model_type="qwen3_moe", architecture="Qwen3MoeForCausalLM",
        modules=(*_with(_LLAMA, *_QK_NORMS, without=_GATED), *_MLP_EXPERTS), fields=(*_MLP_EXPERT_COUNTS, _EXPERT_WIDTH),
        # llama.cpp makes the chosen experts' weights sum to 1, as all published models want; transformers does not by default.
        fixed={**_SILU, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        present={"attention_bias": "attn_q.bias"}, head_dim=True, defaults={"num_key_value_heads": 4},
    ),
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
            attrs.evolve(module, layout=PlusOne()) for module in _QK_NORMS
        )),
        fields=(
            Field("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "number", None),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096),
        ),
        fixed={"hidden_activation": "gelu_pytorch_tanh"}, present={"attention_bias": "attn_q.bias"}, head_dim=256, windows=6,
        theta=1e6, local_theta=1e4, tied=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="phi2", model_type="phi", architecture="PhiForCausalLM",
        modules=_modules(
            "model.embed_tokens model.final_layernorm lm_head", "model.layers.{}",
            "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense mlp.fc1 mlp.fc2",
        ),
        fixed={"hidden_act": "gelu_new", "qk_layernorm": False}, norm="layer_norm_eps", rms=False, epsilon=1e-5, partial=0.5,
    ),
    Family(
        arch="phi3", model_type="phi3", architecture="Phi3ForCausalLM",
        modules=_modules(
            _TOP, "model.layers.{}", f"{_NORMS} self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj"
        ),
        # 0 stands for no window: a file without the key was made before windows were told.
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None, off=0),), fixed=_SILU, epsilon=1e-5, partial=1.0,
        unwindowed=True,
    ),
    Family(
        arch="phimoe", model_type="phimoe", architecture="PhimoeForCausalLM",
        modules=(*_with(_LLAMA, without=_GATED), *_MIXTRAL),
        fields=(*_EXPERT_COUNTS, Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None, off=0)),
        fixed=_SILU, present={"attention_bias": "attn_q.bias", "lm_head_bias": "output.bias"}, epsilon=1e-5, theta=1e6,
        defaults={"num_key_value_heads": 8}, unwindowed=True,
    ),
    Family(
        arch="granite", model_type="granite", architecture="GraniteForCausalLM",
        modules=_LLAMA_ROTATED, fields=_GRANITE_SCALES, fixed=_SILU, present=_BIASES,
    ),
    Family(
        arch="granitemoe", model_type="granitemoeshared", architecture="GraniteMoeSharedForCausalLM", marks=("ffn_gate_shexp.weight",),
        modules=(
            *_with(_LLAMA_ROTATED, without=_GATED), *_GRANITE_EXPERTS,
            _layer("shared_mlp.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE_SHEXP, MODEL_TENSOR.FFN_UP_SHEXP)),
            _layer("shared_mlp.output_linear", tensors=(MODEL_TENSOR.FFN_DOWN_SHEXP,)),
        ),
        fields=(
            *_GRANITE_SCALES, *_EXPERT_COUNTS,
            Field("shared_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH),
        ),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"},
    ),
    Family(
        arch="granitemoe", model_type="granitemoe", architecture="GraniteMoeForCausalLM",
        modules=(*_with(_LLAMA_ROTATED, without=_GATED), *_GRANITE_EXPERTS), fields=(*_GRANITE_SCALES, *_EXPERT_COUNTS),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"},
    ),
    Family(
        arch="smollm3", model_type="smollm3", architecture="SmolLM3ForCausalLM",
        modules=_LLAMA_ROTATED, fixed={**_SILU, "no_rope_layer_interval": 4}, present=_BIASES, theta=2e6, tied=True,
        defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="arcee", model_type="arcee", architecture="ArceeForCausalLM", modules=_with(_LLAMA_ROTATED, without="mlp.gate_proj"),
        fixed={"hidden_act": "relu2"}, present=_BIASES, epsilon=1e-5, head_dim=True,
    ),
    Family(
        arch="seed_oss", model_type="seed_oss", architecture="SeedOssForCausalLM", modules=_LLAMA, fixed=_SILU,
        present={"attention_bias": "attn_q.bias", "attention_out_bias": "attn_output.bias", "mlp_bias": "ffn_up.bias"},
        head_dim=128, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="ernie4_5", model_type="ernie4_5", architecture="Ernie4_5ForCausalLM", modules=_LLAMA, fixed=_SILU,
        present={"use_bias": "attn_q.bias"}, epsilon=1e-5, head_dim=128, theta=5e5, tied=True, defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="olmo", model_type="olmo", architecture="OlmoForCausalLM", modules=_NO_NORMS, fields=(_CLIP,), fixed=_SILU,
        present={"attention_bias": "attn_q.bias"}, norm="", rms=False, epsilon=1e-5,
    ),
    Family(
        arch="olmo2", model_type="olmo3", architecture="Olmo3ForCausalLM", modules=(*_with(_LLAMA, without="input_layernorm"),
        *_POST_NORMS, *_QK_NORMS), fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096),), fixed=_SILU,
        present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, theta=5e5, windows=4, local_theta=5e5,
    ),
    Family(
        arch="olmo2", model_type="olmo2", architecture="Olmo2ForCausalLM",
        modules=(*_with(_LLAMA, without="input_layernorm"), *_POST_NORMS, *_QK_NORMS),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
    ),
    Family(
        arch="olmoe", model_type="olmoe", architecture="OlmoeForCausalLM",
        modules=(*_with(_LLAMA, *_QK_NORMS, without=_GATED), *_MLP_EXPERTS),
        fields=(Field("num_experts", Keys.LLM.EXPERT_COUNT, default=64),
                Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8), _CLIP),
        fixed={**_SILU, "norm_topk_prob": False}, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
    ),
    Family(
        arch="starcoder2", model_type="starcoder2", architecture="Starcoder2ForCausalLM",
        modules=_modules(_TOP, "model.layers.{}", f"{_ATTENTION} {_NORMS} mlp.c_fc mlp.c_proj"), fields=(_WINDOW,),
        fixed={"hidden_act": "gelu_pytorch_tanh"}, present={"use_bias": "attn_q.bias"}, norm="norm_epsilon", rms=False, epsilon=1e-5,
        tied=True, defaults={"num_key_value_heads": 2}, unwindowed=True,
    ),
    Family(
        arch="stablelm", model_type="stablelm", architecture="StableLmForCausalLM",
        modules=(*_LLAMA,
                 _layer("self_attn.q_layernorm.norms.{expert}", tensors=(MODEL_TENSOR.ATTN_Q_NORM,)),
                 _layer("self_attn.k_layernorm.norms.{expert}", tensors=(MODEL_TENSOR.ATTN_K_NORM,))),
        fields=(Field("use_parallel_residual", Keys.LLM.USE_PARALLEL_RESIDUAL, "flag", False),),
        fixed=_SILU, present={"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
        norm="layer_norm_eps", rms=False, epsilon=1e-5, partial=0.25,
    ),
    Family(
        arch="nemotron", model_type="nemotron", architecture="NemotronForCausalLM",
        modules=_with(
            _LLAMA, Module("model.norm", PlusOne(), bias=Same()), _layer("input_layernorm", PlusOne(), bias=Same()),
            _layer("post_attention_layernorm", PlusOne(), bias=Same()), without="mlp.gate_proj",
        ),
        fixed={"hidden_act": "relu2"}, present=_BIASES, norm="norm_eps", rms=False, epsilon=1e-5, partial=0.5, head_dim=True,
    ),
    Family(
        arch="command-r", model_type="cohere", architecture="CohereForCausalLM",
        modules=(*_with(_LLAMA, without="post_attention_layernorm"), *_QK_NORMS),
        fields=(Field("logit_scale", Keys.LLM.LOGIT_SCALE, "number", 0.0625),),
        fixed=_SILU, present={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
        norm="layer_norm_eps", rms=False, epsilon=1e-5, theta=5e5, tied=True,
    ),
    Family(
        arch="cohere2", model_type="cohere2", architecture="Cohere2ForCausalLM", modules=_with(_LLAMA, without="post_attention_layernorm"),
        fields=(Field("logit_scale", Keys.LLM.LOGIT_SCALE, "number", 0.0625),
                Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096)),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"}, norm="layer_norm_eps", rms=False, epsilon=1e-5, head_dim=True,
        windows=4, tied=True,
    ),
    Family(
        arch="chatglm", model_type="glm", architecture="GlmForCausalLM",
        modules=_modules(_TOP, "model.layers.{}", f"{_ATTENTION} {_NORMS} mlp.gate_up_proj mlp.down_proj"),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1.5625e-07, partial=0.5, head_dim=128,
        defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="glm4", model_type="glm4", architecture="Glm4ForCausalLM",
        modules=_modules(
            _TOP, "model.layers.{}",
            f"{_ATTENTION} {_NORMS} mlp.gate_up_proj mlp.down_proj post_mlp_layernorm post_self_attn_layernorm",
        ),
        fixed=_SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1.5625e-07, partial=0.5, head_dim=128,
        defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="exaone", model_type="exaone", architecture="ExaoneForCausalLM",
        modules=_gpt(
            "ln_1 ln_2 attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj "
            "mlp.c_fc_0 mlp.c_fc_1 mlp.c_proj",
        ),
        fixed=_SILU, present={"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}, epsilon=1e-5, head_dim=True, theta=5e5,
        defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="exaone4", model_type="exaone4", architecture="Exaone4ForCausalLM",
        modules=(*_with(_LLAMA, without="input_layernorm"), *_POST_NORMS, *_QK_NORMS),
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096, off=0),), fixed=_SILU, epsilon=1e-5, head_dim=True,
        windows=4, unwindowed=True,
    ),
    Family(
        arch="gpt-oss", model_type="gpt_oss", architecture="GptOssForCausalLM", modules=(*_with(_LLAMA, without=_GATED), *_GPT_OSS),
        fields=(
            Field("num_local_experts", Keys.LLM.EXPERT_COUNT, default=128),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=4),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=128),
        ),
        fixed={**_SILU, "swiglu_alpha": 1.702, "swiglu_limit": 7.0}, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
        head_dim=64, theta=150000.0, windows=2, defaults={"num_key_value_heads": 8}, yarn={"truncate": False},
        written={Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: "intermediate_size"},
    ),
    Family(
        arch="gpt2", model_type="gpt2", architecture="GPT2LMHeadModel", modules=_GPT2, rename=_GPT2_NAMES, rope=False,
        fixed={
            "activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False, "add_cross_attention": False,
        },
        norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, grouped=False, four=True,
    ),
    Family(
        arch="starcoder", model_type="gpt_bigcode", architecture="GPTBigCodeForCausalLM", modules=_BIGCODE, rename=_GPT2_NAMES,
        rope=False,
        fixed={
            "activation_function": "gelu_pytorch_tanh", "scale_attn_weights": True, "multi_query": True, "add_cross_attention": False,
        },
        norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, kv_heads=1, four=True,
    ),
    Family(
        arch="gptneox", model_type="gpt_neox", architecture="GPTNeoXForCausalLM", modules=_NEOX,
        fields=(Field("use_parallel_residual", Keys.LLM.USE_PARALLEL_RESIDUAL, "flag", True),),
        fixed={"hidden_act": "gelu"}, present={"attention_bias": "attn_qkv.bias"},
        rename={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        norm="layer_norm_eps", rms=False, epsilon=1e-5, partial=0.25, grouped=False,
    ),
    Family(
        arch="falcon", model_type="falcon", architecture="FalconForCausalLM", marks=("attn_norm_2.weight",),
        modules=(*_FALCON, _FALCON_QKV, Module("transformer.h.{}.ln_mlp"), Module("transformer.h.{}.ln_attn")),
        rename={"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
        fixed={
            "activation": "gelu", "alibi": False, "parallel_attn": True, "bias": False, "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 2,
        },
        ignored=("multi_query",), norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, four=True,
        defaults={"max_position_embeddings": 2048},
    ),
    Family(
        arch="falcon", model_type="falcon", architecture="FalconForCausalLM",
        modules=(*_FALCON, _FALCON_QKV, Module("transformer.h.{}.input_layernorm")),
        rename={"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
        fixed={
            "activation": "gelu", "alibi": False, "parallel_attn": True, "bias": False, "new_decoder_architecture": False,
            "multi_query": True,
        },
        norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, kv_heads=1, four=True,
        defaults={"max_position_embeddings": 2048},
    ),
    Family(
        # Falcon 11B: groups of heads as in the newer form, and one norm for attention and MLP.
        arch="falcon", model_type="falcon", architecture="FalconForCausalLM",
        modules=(*_FALCON, _FALCON_QKV, Module("transformer.h.{}.input_layernorm")),
        rename={"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
        fixed={
            "activation": "gelu", "alibi": False, "parallel_attn": True, "bias": False, "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
        },
        ignored=("multi_query",), norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, four=True,
        defaults={"max_position_embeddings": 2048},
    ),
    Family(
        arch="bloom", model_type="bloom", architecture="BloomForCausalLM", modules=_BLOOM, rope=False,
        rename={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "max_position_embeddings": "seq_length"},
        fixed={"apply_residual_connection_post_layernorm": False},
        norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, grouped=False, four=True,
        defaults={"max_position_embeddings": 2048},
    ),
    Family(
        arch="mpt", model_type="mpt", architecture="MptForCausalLM", rope=False,
        modules=_gpt(
            "norm_1 norm_2 attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj", layer="transformer.blocks.{}",
            top="transformer.wte transformer.norm_f lm_head",
        ),
        rename={
            "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
        fields=(
            Field("attn_config.clip_qkv", Keys.Attention.CLAMP_KQV, "number", None),
            Field("attn_config.alibi_bias_max", Keys.Attention.MAX_ALIBI_BIAS, "whole", 8),
        ),
        fixed={"attn_config.alibi": True, "attn_config.qk_ln": False, "no_bias": True, "logit_scale": None},
        norm="layer_norm_epsilon", rms=False, epsilon=1e-5, tied=True, grouped=False, four=True,
    ),
)  # fmt: skip

#: Buffers of some checkpoints that follow from the config, and that GGUF does not hold.
BUFFERS: Final = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")

#: GGUF tensors that say what the config says: how rotary frequencies are scaled.
ROPE_TENSORS: Final = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@cache
def architectures() -> tuple[str, ...]:
    """GGUF's names of all architectures in the table."""
    return tuple(dict.fromkeys(family.arch for family in FAMILIES))


def family_of(header: GGUFHeader) -> Family:
    """The family of the model in a GGUF file.

    Raises:
        UnsupportedModel: its architecture is not in the table.
    """
    arch = meta.architecture(header)
    if arch not in architectures():
        raise UnsupportedModel(f"{header.path} holds a model of the architecture {arch[:40]!r}, and {', '.join(architectures())} are read.")
    names = {tensor.name for tensor in header.tensors}
    groups = header.metadata.get(Keys.Attention.HEAD_COUNT_KV.format(arch=arch))
    candidates = [
        family
        for family in FAMILIES
        if family.arch == arch
        and all(f"blk.0.{mark}" in names for mark in family.marks)
        and (family.kv_heads is None or groups in (None, family.kv_heads))
    ]
    if not candidates:
        raise UnsupportedModel(f"{header.path} has {str(groups)[:20]} heads of keys and values, which no {arch} that is read has.")
    if arch == "llama" and not candidates[0].marks:
        # llama.cpp converts Mistral as llama, whose mathematics it shares; only the name tells.
        titles = (meta.text(header, f"general.{key}") or "" for key in ("name", "basename"))
        wanted = "mistral" if any("mistral" in title.lower() for title in titles) else "llama"
        return next(family for family in candidates if family.model_type == wanted)
    if arch == "olmo2":
        wanted = "olmo3" if Keys.Attention.SLIDING_WINDOW.format(arch=arch) in header.metadata else "olmo2"
        return next(family for family in candidates if family.model_type == wanted)
    return candidates[0]


def family_for(config: Mapping[str, Any], where: str) -> Family:
    """The family as which a checkpoint with this config is written.

    Raises:
        UnsupportedModel: there is none.
    """
    kind = config.get("model_type")
    candidates = [family for family in FAMILIES if family.model_type == kind]
    if not candidates:
        known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
        raise UnsupportedModel(f"{where} has model_type {str(kind)[:40]!r}, for which no GGUF is written; those that are: {known}.")
    fits = [family for family in candidates if all(config.get(key) in (None, value) for key, value in family.fixed.items())]
    return (fits or candidates)[0]
