"""Families of GGUF whose layers are all alike: attention with keys and values, and an MLP or experts."""

from __future__ import annotations

from typing import Final

import attrs
from gguf.constants import MODEL_TENSOR, ExpertGatingFuncType, Keys

from llmasos_format_gguf.family import Family, Field, Module
from llmasos_format_gguf.layouts import AlternatingColumns, Grouped, Halves, OneRow, PlusOne, RowsMoved, Same, Transposed
from llmasos_format_gguf.modules import (
    ATTENTION,
    BIASES,
    EXPERT_COUNTS,
    EXPERT_WIDTH,
    GATED,
    GRANITE_EXPERTS,
    GRANITE_SCALES,
    LLAMA,
    LLAMA_ROTATED,
    MLP_EXPERT_COUNTS,
    MLP_EXPERTS,
    NORMS,
    POST_NORMS,
    QK_NORMS,
    SILU,
    TOP,
    WINDOW,
    modules_of,
    of_layer,
    stacked_experts,
    with_changes,
)  # fmt: skip

_NO_NORMS: Final = tuple(module for module in with_changes(LLAMA_ROTATED, without=NORMS) if module.name != "model.norm")


_MIXTRAL: Final = (of_layer("block_sparse_moe.gate"), *stacked_experts("block_sparse_moe", "w1", "w3", "w2"))
_GPT_OSS: Final = (
    of_layer("mlp.router"),
    of_layer("self_attn.sinks", leaf="weight"),
    of_layer("mlp.experts.gate_up_proj", AlternatingColumns(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "weight"),
    of_layer("mlp.experts.gate_up_proj_bias", AlternatingColumns(), (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP), "bias"),
    of_layer("mlp.experts.down_proj", Transposed(), (MODEL_TENSOR.FFN_DOWN_EXP,), "weight"),
    of_layer("mlp.experts.down_proj_bias", tensors=(MODEL_TENSOR.FFN_DOWN_EXP,), leaf="bias"),
)


def _gpt(names: str, layer: str = "transformer.h.{}", top: str = "transformer.wte transformer.ln_f lm_head") -> tuple[Module, ...]:
    return modules_of(top, layer, names)


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
_FALCON_QKV: Final = Module("transformer.h.{}.self_attention.query_key_value", RowsMoved(Grouped("num_attention_heads", "num_kv_heads")))
_BLOOM: Final = (
    *_gpt(
        "input_layernorm mlp.dense_h_to_4h mlp.dense_4h_to_h self_attention.dense",
        top="transformer.word_embeddings transformer.ln_f lm_head",
    ),
    Module("transformer.word_embeddings_layernorm", tensors=(MODEL_TENSOR.TOKEN_EMBD_NORM,)),
    Module("transformer.h.{}.post_attention_layernorm", tensors=(MODEL_TENSOR.FFN_NORM,)),
    Module("transformer.h.{}.self_attention.query_key_value", RowsMoved(Grouped("n_head", "n_head"))),
)
_NEOX: Final = (
    *_gpt(
        "input_layernorm post_attention_layernorm attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
        layer="gpt_neox.layers.{}",
        top="gpt_neox.embed_in gpt_neox.final_layer_norm embed_out",
    ),
    Module("gpt_neox.layers.{}.attention.query_key_value", RowsMoved(Grouped("num_attention_heads", "num_attention_heads"))),
)

_CLIP: Final = Field("clip_qkv", Keys.Attention.CLAMP_KQV, "number", None)
DECODERS: Final[tuple[Family, ...]] = (
    Family(
        arch="llama", model_type="mixtral", architecture="MixtralForCausalLM", marks=("ffn_gate_exps.weight",),
        modules=(*LLAMA_ROTATED, *_MIXTRAL), fields=(*EXPERT_COUNTS, WINDOW), fixed=SILU, epsilon=1e-5, head_dim=True, theta=1e6,
        unwindowed=True,
    ),
    Family(
        arch="llama", model_type="llama", architecture="LlamaForCausalLM",
        modules=LLAMA_ROTATED, fixed=SILU, present=BIASES, head_dim=True,
    ),
    Family(
        arch="llama", model_type="mistral", architecture="MistralForCausalLM", modules=LLAMA_ROTATED,
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096, absent=None),), fixed=SILU, head_dim=True,
        defaults={"num_key_value_heads": 8}, unwindowed=True, title="mistral",
    ),
    *(
        # transformers has configs of their own for them, and computes them as Llama.
        Family(
            arch="llama", model_type=kind, architecture="LlamaForCausalLM", modules=LLAMA_ROTATED, fixed=SILU, present=BIASES,
            epsilon=1e-5, head_dim=128, defaults={"num_key_value_heads": groups}, title=title,
        )
        for kind, title, groups in (("internlm3", "internlm3", 2), ("iquestcoder", "iquest", 8))
    ),
    Family(
        arch="mistral3", model_type="ministral3", architecture="Ministral3ForCausalLM", modules=LLAMA_ROTATED,
        fixed={**SILU, "sliding_window": None}, head_dim=128, epsilon=1e-5, theta=1e6, defaults={"num_key_value_heads": 8}, grows=True,
        yarn={"mscale": 1.0, "mscale_all_dim": 1.0},
        scaling={
            "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        },
    ),
    Family(arch="qwen2", model_type="qwen2", architecture="Qwen2ForCausalLM", modules=LLAMA, fixed=SILU, head_dim=True),
    Family(
        arch="qwen3", model_type="qwen3", architecture="Qwen3ForCausalLM",
        modules=(*LLAMA, *QK_NORMS), fixed=SILU, present={"attention_bias": "attn_q.bias"}, head_dim=128,
    ),
    Family(
        arch="qwen2moe", model_type="qwen2_moe", architecture="Qwen2MoeForCausalLM",
        modules=(
            *with_changes(LLAMA, without=GATED), *MLP_EXPERTS, of_layer("mlp.shared_expert_gate", OneRow()),
            *(of_layer(f"mlp.shared_expert.{name}_proj") for name in ("gate", "up", "down")),
        ),
        fields=(
            *MLP_EXPERT_COUNTS, EXPERT_WIDTH,
            Field("shared_expert_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH),
        ),
        fixed={**SILU, "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        present={"qkv_bias": "attn_q.bias"},
    ),
    Family(
        arch="qwen3moe", model_type="qwen3_moe", architecture="Qwen3MoeForCausalLM",
        modules=(*with_changes(LLAMA, *QK_NORMS, without=GATED), *MLP_EXPERTS), fields=(*MLP_EXPERT_COUNTS, EXPERT_WIDTH),
        # llama.cpp makes the chosen experts' weights sum to 1, as all published models want; transformers does not by default.
        fixed={**SILU, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        present={"attention_bias": "attn_q.bias"}, head_dim=True, defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="phi2", model_type="phi", architecture="PhiForCausalLM",
        modules=modules_of(
            "model.embed_tokens model.final_layernorm lm_head", "model.layers.{}",
            "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense mlp.fc1 mlp.fc2",
        ),
        fixed={"hidden_act": "gelu_new", "qk_layernorm": False}, norm="layer_norm_eps", rms=False, epsilon=1e-5, partial=0.5,
    ),
    Family(
        arch="phi3", model_type="phi3", architecture="Phi3ForCausalLM",
        modules=modules_of(
            TOP, "model.layers.{}", f"{NORMS} self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj"
        ),
        # 0 stands for no window: a file without the key was made before windows were told.
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None, off=0),), fixed=SILU, epsilon=1e-5, partial=1.0,
        unwindowed=True,
    ),
    Family(
        arch="phimoe", model_type="phimoe", architecture="PhimoeForCausalLM",
        modules=(*with_changes(LLAMA, without=GATED), *_MIXTRAL),
        fields=(*EXPERT_COUNTS, Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=None, off=0)),
        fixed=SILU, present={"attention_bias": "attn_q.bias", "lm_head_bias": "output.bias"}, epsilon=1e-5, theta=1e6,
        defaults={"num_key_value_heads": 8}, unwindowed=True,
    ),
    Family(
        arch="granite", model_type="granite", architecture="GraniteForCausalLM",
        modules=LLAMA_ROTATED, fields=GRANITE_SCALES, fixed=SILU, present=BIASES,
    ),
    Family(
        arch="granitemoe", model_type="granitemoeshared", architecture="GraniteMoeSharedForCausalLM", marks=("ffn_gate_shexp.weight",),
        modules=(
            *with_changes(LLAMA_ROTATED, without=GATED), *GRANITE_EXPERTS,
            of_layer("shared_mlp.input_linear", Halves(), (MODEL_TENSOR.FFN_GATE_SHEXP, MODEL_TENSOR.FFN_UP_SHEXP)),
            of_layer("shared_mlp.output_linear", tensors=(MODEL_TENSOR.FFN_DOWN_SHEXP,)),
        ),
        fields=(
            *GRANITE_SCALES, *EXPERT_COUNTS,
            Field("shared_intermediate_size", Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH),
        ),
        fixed=SILU, present={"attention_bias": "attn_q.bias"},
    ),
    Family(
        arch="granitemoe", model_type="granitemoe", architecture="GraniteMoeForCausalLM",
        modules=(*with_changes(LLAMA_ROTATED, without=GATED), *GRANITE_EXPERTS), fields=(*GRANITE_SCALES, *EXPERT_COUNTS),
        fixed=SILU, present={"attention_bias": "attn_q.bias"},
    ),
    Family(
        arch="smollm3", model_type="smollm3", architecture="SmolLM3ForCausalLM",
        modules=LLAMA_ROTATED, fixed={**SILU, "no_rope_layer_interval": 4}, present=BIASES, theta=2e6, tied=True,
        defaults={"num_key_value_heads": 4},
    ),
    Family(
        arch="jais2", model_type="jais2", architecture="Jais2ForCausalLM", modules=with_changes(LLAMA, without="mlp.gate_proj"),
        fixed={"hidden_act": "relu2"}, present=BIASES, norm="layer_norm_eps", rms=False, epsilon=1e-5, head_dim=True,
    ),
    Family(
        arch="minimax-m2", model_type="minimax_m2", architecture="MiniMaxM2ForCausalLM",
        modules=(
            *with_changes(LLAMA, without=GATED), *QK_NORMS, *_MIXTRAL,
            of_layer("block_sparse_moe.e_score_correction_bias", tensors=(MODEL_TENSOR.FFN_EXP_PROBS_B,), leaf="bias"),
        ),
        fields=(
            Field("num_local_experts", Keys.LLM.EXPERT_COUNT, default=256),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8),
        ),
        written={Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: ("intermediate_size",)},
        constants={Keys.LLM.EXPERT_GATING_FUNC: int(ExpertGatingFuncType.SIGMOID)}, fixed=SILU, partial=1.0, head_dim=128, theta=5e6,
        defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="arcee", model_type="arcee", architecture="ArceeForCausalLM", modules=with_changes(LLAMA_ROTATED, without="mlp.gate_proj"),
        fixed={"hidden_act": "relu2"}, present=BIASES, epsilon=1e-5, head_dim=True,
    ),
    Family(
        arch="apertus", model_type="apertus", architecture="ApertusForCausalLM",
        modules=(
            *with_changes(LLAMA, of_layer("attention_layernorm"), of_layer("feedforward_layernorm"), without=f"{NORMS} mlp.gate_proj"),
            *QK_NORMS,
        ),
        scalars={
            f"model.layers.{{}}.mlp.act_fn.{name}": (key, shape) for name, key, shape in (
                ("alpha_n", Keys.xIELU.ALPHA_N, (1,)), ("alpha_p", Keys.xIELU.ALPHA_P, (1,)), ("beta", Keys.xIELU.BETA, ()),
                ("eps", Keys.xIELU.EPS, ()),
            )
        },
        fixed={"hidden_act": "xielu"}, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, theta=12e6,
        scaling={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    Family(
        arch="seed_oss", model_type="seed_oss", architecture="SeedOssForCausalLM", modules=LLAMA, fixed=SILU,
        present={"attention_bias": "attn_q.bias", "attention_out_bias": "attn_output.bias", "mlp_bias": "ffn_up.bias"},
        head_dim=128, defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="ernie4_5", model_type="ernie4_5", architecture="Ernie4_5ForCausalLM", modules=LLAMA, fixed=SILU,
        present={"use_bias": "attn_q.bias"}, epsilon=1e-5, head_dim=128, theta=5e5, tied=True, defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="olmo", model_type="olmo", architecture="OlmoForCausalLM", modules=_NO_NORMS, fields=(_CLIP,), fixed=SILU,
        present={"attention_bias": "attn_q.bias"}, norm="", rms=False, epsilon=1e-5,
    ),
    Family(
        arch="olmo2", model_type="olmo3", architecture="Olmo3ForCausalLM", modules=(*with_changes(LLAMA, without="input_layernorm"),
        *POST_NORMS, *QK_NORMS), fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096),), fixed=SILU,
        present={"attention_bias": "attn_q.bias"}, epsilon=1e-5, theta=5e5, windows=4, local_theta=5e5,
    ),
    Family(
        arch="olmo2", model_type="olmo2", architecture="Olmo2ForCausalLM",
        modules=(*with_changes(LLAMA, without="input_layernorm"), *POST_NORMS, *QK_NORMS),
        fixed=SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
    ),
    Family(
        arch="olmoe", model_type="olmoe", architecture="OlmoeForCausalLM",
        modules=(*with_changes(LLAMA, *QK_NORMS, without=GATED), *MLP_EXPERTS),
        fields=(Field("num_experts", Keys.LLM.EXPERT_COUNT, default=64),
                Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=8), _CLIP),
        fixed={**SILU, "norm_topk_prob": False}, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
    ),
    Family(
        arch="starcoder2", model_type="starcoder2", architecture="Starcoder2ForCausalLM",
        modules=modules_of(TOP, "model.layers.{}", f"{ATTENTION} {NORMS} mlp.c_fc mlp.c_proj"), fields=(WINDOW,),
        fixed={"hidden_act": "gelu_pytorch_tanh"}, present={"use_bias": "attn_q.bias"}, norm="norm_epsilon", rms=False, epsilon=1e-5,
        tied=True, defaults={"num_key_value_heads": 2}, unwindowed=True,
    ),
    Family(
        arch="stablelm", model_type="stablelm", architecture="StableLmForCausalLM",
        modules=(*LLAMA,
                 of_layer("self_attn.q_layernorm.norms.{expert}", tensors=(MODEL_TENSOR.ATTN_Q_NORM,)),
                 of_layer("self_attn.k_layernorm.norms.{expert}", tensors=(MODEL_TENSOR.ATTN_K_NORM,))),
        fields=(Field("use_parallel_residual", Keys.LLM.USE_PARALLEL_RESIDUAL, "flag", False),),
        fixed=SILU, present={"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
        norm="layer_norm_eps", rms=False, epsilon=1e-5, partial=0.25,
    ),
    Family(
        arch="nemotron", model_type="nemotron", architecture="NemotronForCausalLM",
        modules=with_changes(
            LLAMA, Module("model.norm", PlusOne(), bias=Same()), of_layer("input_layernorm", PlusOne(), bias=Same()),
            of_layer("post_attention_layernorm", PlusOne(), bias=Same()), without="mlp.gate_proj",
        ),
        fixed={"hidden_act": "relu2"}, present=BIASES, norm="norm_eps", rms=False, epsilon=1e-5, partial=0.5, head_dim=True,
    ),
    Family(
        arch="command-r", model_type="cohere", architecture="CohereForCausalLM",
        modules=(*with_changes(LLAMA, without="post_attention_layernorm"), *QK_NORMS),
        fields=(Field("logit_scale", Keys.LLM.LOGIT_SCALE, "number", 0.0625),),
        fixed=SILU, present={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
        norm="layer_norm_eps", rms=False, epsilon=1e-5, theta=5e5, tied=True,
    ),
    Family(
        arch="cohere2", model_type="cohere2", architecture="Cohere2ForCausalLM",
        modules=with_changes(LLAMA, without="post_attention_layernorm"),
        fields=(Field("logit_scale", Keys.LLM.LOGIT_SCALE, "number", 0.0625),
                Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096)),
        fixed=SILU, present={"attention_bias": "attn_q.bias"}, norm="layer_norm_eps", rms=False, epsilon=1e-5, head_dim=True,
        windows=4, tied=True,
    ),
    Family(
        arch="chatglm", model_type="glm", architecture="GlmForCausalLM",
        modules=modules_of(TOP, "model.layers.{}", f"{ATTENTION} {NORMS} mlp.gate_up_proj mlp.down_proj"),
        fixed=SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1.5625e-07, partial=0.5, head_dim=128,
        defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="glm4", model_type="glm4", architecture="Glm4ForCausalLM",
        modules=modules_of(
            TOP, "model.layers.{}",
            f"{ATTENTION} {NORMS} mlp.gate_up_proj mlp.down_proj post_mlp_layernorm post_self_attn_layernorm",
        ),
        fixed=SILU, present={"attention_bias": "attn_q.bias"}, epsilon=1.5625e-07, partial=0.5, head_dim=128,
        defaults={"num_key_value_heads": 2},
    ),
    Family(
        arch="exaone", model_type="exaone", architecture="ExaoneForCausalLM",
        modules=_gpt(
            "ln_1 ln_2 attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj "
            "mlp.c_fc_0 mlp.c_fc_1 mlp.c_proj",
        ),
        fixed=SILU, present={"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}, epsilon=1e-5, head_dim=True, theta=5e5,
        defaults={"num_key_value_heads": 8},
    ),
    Family(
        arch="exaone4", model_type="exaone4", architecture="Exaone4ForCausalLM",
        modules=(*with_changes(LLAMA, without="input_layernorm"), *POST_NORMS, *QK_NORMS),
        fields=(Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=4096, off=0),), fixed=SILU, epsilon=1e-5, head_dim=True,
        windows=4, unwindowed=True,
    ),
    Family(
        arch="gpt-oss", model_type="gpt_oss", architecture="GptOssForCausalLM", modules=(*with_changes(LLAMA, without=GATED), *_GPT_OSS),
        fields=(
            Field("num_local_experts", Keys.LLM.EXPERT_COUNT, default=128),
            Field("num_experts_per_tok", Keys.LLM.EXPERT_USED_COUNT, default=4),
            Field("sliding_window", Keys.Attention.SLIDING_WINDOW, default=128),
        ),
        fixed={**SILU, "swiglu_alpha": 1.702, "swiglu_limit": 7.0}, present={"attention_bias": "attn_q.bias"}, epsilon=1e-5,
        head_dim=64, theta=150000.0, windows=2, defaults={"num_key_value_heads": 8}, yarn={"truncate": False},
        written={Keys.LLM.EXPERT_FEED_FORWARD_LENGTH: ("intermediate_size",)},
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
