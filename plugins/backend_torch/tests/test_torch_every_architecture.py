"""Every decoder of transformers, tiny: loaded from its folder it is what transformers computes, or is refused.

Windows, chunks and other borders of a tiny model lie past the tokens that the loader tries at load and inside the context that is compared
here, as they do in real models.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmasos_backend_torch.architectures import ENCODER_DECODERS, ENCODERS, RECOMPUTED, REFUSED, SLOTS, refusal
from llmasos_hookspecs import DECODER_FAMILIES, DecoderConfig, EncoderInfo, EncoderRow, Engine, Row, UnsupportedModel

Load = Callable[..., Engine]

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' models warn of their own code

DOCS: Final = Path(__file__).parents[3] / "docs" / "architectures.md"
CONTEXT: Final = 48

#: Size -> the keys of configs that are set to it.
_SIZES: Final = {
    96: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    32: "hidden_size d_model n_embd dim embedding_size word_embed_proj_dim emb_dim n_embed attention_hidden_size lru_width "
    "dim_model embed_dim out_hidden_size output_channels text_hidden_size projection_dim projector_hidden_size output_dim "
    "hidden_size_global",
    48: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_ff dim_ff ffn_hidden_size d_inner feed_forward_size "
    "intermediate_size_mlp max_position_embeddings n_positions seq_length max_seq_len n_ctx max_target_positions context_length",
    64: "encoder_cross_output_size",
    20: "sliding_window attention_window_size window_size local_attention attention_chunk_size",
    16: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size image_size "
    "index_topk moe_shared_expert_intermediate_size shared_experts_intermediate_size q_lora_rank chunk_size mamba_chunk_size "
    "floor_scale",
    8: "head_dim attention_head_dim global_head_dim linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input "
    "rotary_dim v_head_dim qk_rope_head_dim qk_nope_head_dim kv_lora_rank state_size mamba_d_state d_state time_step_rank "
    "ssm_state_size patch_size index_head_dim linear_head_dim",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_decoder_attention_heads "
    "num_encoder_attention_heads linear_num_key_heads linear_num_value_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts num_routed_experts zero_expert_num index_n_heads index_block_size linear_num_heads",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers depth "
    "moe_k moe_topk num_key_value_heads num_kv_heads num_global_key_value_heads num_experts_per_tok num_experts_per_token "
    "index_topk_blocks",
    1: "n_group topk_group n_shared_experts num_shared_experts",
}  # fmt: skip
SIZES: Final = {key: size for size, keys in _SIZES.items() for key in keys.split()}

_ROPE: Final = {"rope_type": "default", "rope_theta": 1e4}
_LONGROPE: Final = {
    **_ROPE, "rope_type": "longrope", "original_max_position_embeddings": 24, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}  # fmt: skip
_TEMPERATURE: Final = {
    **_ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12, "llama_4_scaling_beta": 0.1, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
_BOTH: Final = ["sliding_attention", "full_attention"]

#: model_type -> what its tiny config needs besides ``SIZES``.
SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "big_bird": {"attention_type": "original_full"},
    "blt": {"encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [2, 3], "encoder_hash_byte_group_nb_functions": 1},
    "cohere_compass_text": {"layer_types": _BOTH, "rope_parameters": dict.fromkeys(_BOTH, _ROPE)},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        "rope_parameters": _ROPE,
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dory": {"n_input_layers": 1, "n_output_layers": 1, "n_recurrent_layers": 1, "num_hidden_layers": 3, "layer_types": [*_BOTH, _BOTH[0]]},
    "dots1": {
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "num_key_value_heads": 2, "layer_types": _BOTH,
        "first_k_dense_replace": 1,
    },
    "dots3_note_text": {"num_key_value_heads": 4, "per_layer_config": {}, "head_dim": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": _BOTH * 2, "num_kv_shared_layers": 2, "laurel_rank": 8, "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8, "num_key_value_heads": 2},
    "hunyuan_v1_moe": {"head_dim": 8, "num_key_value_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse"]},
    "ministral": {"head_dim": 8},
    "ministral3": {"rope_parameters": _TEMPERATURE},
    "nemotron": {"num_key_value_heads": 2},
    "phi3": {"original_max_position_embeddings": 24, "rope_parameters": _LONGROPE},
    "phi4_multimodal_audio": {"num_blocks": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16, "indexer_compress_ratio": 4,
        "hc_lowrank": 8, "ngram_vocab_size_base": 50, "make_ngram_vocab_size_divisible_by": 1, "split_ngram_parts": 1, "ple_embed_dim": 8,
        "heads_per_ngram": 2,
    },
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [6, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"], "num_buckets": 2,
        "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
    },
    "roc_bert": {"shape_vocab_size": 100, "pronunciation_vocab_size": 100, "shape_embed_dim": 8, "pronunciation_embed_dim": 8},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "layer_types": ["mamba", "hybrid", "hybrid"], "num_hidden_layers": 3, "attention_hidden_size": 64, "attention_head_dim": 16,
        "mamba_dt_rank": 4, "n_mamba_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "layer_types": ["mamba", "hybrid"] * 2, "n_mamba_heads": 8,
        "mamba_headdim": 8, "mamba_ngroups": 1, "num_mem_blocks": 1, "attention_hidden_size": 64, "attention_head_dim": 16,
        "adapter_rank": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

#: Those that cannot be made tiny here, and why; the text model of each is walked under its own name.
UNMADE: Final = {
    "dots3_note": "its config counts layers of the full size",
    "gemma3n": "its images need Pillow, which is no dependency",
}

#: Those that transformers itself cannot make from their config.
_IMPOSSIBLE: Final = ("gemma4_assistant", "musicgen", "musicgen_melody")

#: Those whose recurrence (the gated delta rule) makes the last rounding of a matrix product larger.
AMPLIFYING: Final = ("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next")

#: Architectures that the fused forward computes in their usual form.
FUSED: Final = frozenset(("llama", "ministral", "mistral", "qwen2", "qwen3", "seed_oss"))


def tiny_config(kind: str, **changes: Any) -> PreTrainedConfig:
    """A config whose models have some ten thousand weights, one layer of each kind."""
    decoder = {"is_decoder": True} if kind in ENCODERS else {}
    return CONFIG_MAPPING[kind](**{**_tiny_values(CONFIG_MAPPING[kind](), kind), **decoder, **changes})


def _tiny_values(usual: PreTrainedConfig, kind: str) -> dict[str, Any]:
    values = usual.to_dict()
    found: dict[str, Any] = {key: size for key, size in SIZES.items() if type(values.get(key)) is int}
    if isinstance(values.get("layer_types"), list):
        kinds = list(dict.fromkeys(values["layer_types"]))
        found["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
        found["num_hidden_layers"] = len(found["layer_types"])
    if "kv_lora_rank" in values and "num_key_value_heads" in values:
        found["num_key_value_heads"] = SIZES["num_attention_heads"]
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    found |= {key: token for key, token in tokens.items() if isinstance(values.get(key), int | list)}
    for key in usual.sub_configs:
        part = getattr(usual, key, None)
        if isinstance(part, PreTrainedConfig):
            found[key] = {"model_type": part.model_type, **_tiny_values(part, part.model_type)}
    return {**found, **SPECIAL.get(kind, {})}


def save(kind: str, folder: Path, **changes: Any) -> PreTrainedModel:
    """A random model of this type, its logits far apart, and saved in a folder."""
    config = tiny_config(kind, **changes)
    torch.manual_seed(0)
    with torch.device("meta"):  # a size that was forgotten would take all memory
        assert sum(part.numel() for part in AutoModelForCausalLM.from_config(config).parameters()) < 8_000_000
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5) if parameter.dim() > 1 else parameter.add_(noise * 0.1)
    model.save_pretrained(folder)
    if model.config.model_type != config.model_type:  # saved as its text part alone
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
    return model


def expected(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def error(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 96, length)]


def check(engine: Engine, model: PreTrainedModel, bound: float) -> None:
    """The whole context in one piece, two sequences in chunks of one batch, and greedy text, each against one forward of transformers over
    the sequence so far, which is computed once."""
    wanted = functools.cache(lambda tokens: expected(model, list(tokens)))
    length = min(CONTEXT, engine.info.context_length)
    assert length > 40
    first, second = tuple(prompt(1, length)), tuple(prompt(2, length))
    slot = engine.open()
    assert error(engine.step([Row(slot, first, 0, "all")])[0], wanted(first)) < bound
    engine.close(slot)
    one, two = engine.open(), engine.open()
    for a, b, c, d in ((0, 5, 0, 22), (5, 30, 22, 23), (30, length, 23, length)):
        got = engine.step([Row(one, first[a:b], a, "all"), Row(two, second[c:d], c, "all")])
        assert error(got[0], wanted(first[:b])[a:]) < bound
        assert error(got[1], wanted(second[:d])[c:]) < bound
    engine.truncate(one, 15)
    text, new = first[:15], first[15:18]
    for _ in range(3):
        logits = engine.step([Row(one, new, len(text))])[0]
        text += new
        new = (int(logits[0].argmax()),)
        assert new == (int(wanted(text)[-1].argmax()),)


def way(engine: Engine) -> str:
    return "slots" if "kv_cache" in engine.info.features else "recomputed"


#: Those that are compared with transformers on each change in another place, too: by the loader onnx (its test_families.py), or on more
#: paths in test_torch_architectures.py; ``make test-long`` walks them here.
ELSEWHERE: Final = frozenset(DECODER_FAMILIES) - {"llama"} | {"gpt_oss", "bloom", "mamba"}
_ALIKE: Final = """
apertus apertus1p5_text aria_text axk1 axk2 bailing_hybrid bamba bart beam bert-generation big_bird biogpt bitnet
blenderbot blenderbot-small blt camembert codegen cohere2_moe cohere_compass_text ctrl cwm data2vec-text dbrx
deepseek_v2 deepseek_v4 diffllama dory dots1 dots3_note_text electra emu3 ernie ernie4_5_moe exaone exaone_moe falcon
falcon_h1 falcon_mamba flex_olmo flint fuyu gemma3n_text gemma4 gemma4_text gemma4_unified_text git glm4_moe
glm4_moe_lite glm_moe_dsa got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox_japanese gptj granite_swa granitemoe
granitemoe_swa granitemoehybrid granitemoeshared hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
inkling2_loop_text inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear kolibri1 laguna
lara_mini lfm2_moe lfm3 mamba2 marian mbart megatron-bert mellum mimo_v2_flash minicpm3 minimax minimax_m2
minimax_m3_vl_text ministral3 mixtral mllama modernbert-decoder moshi moss_transcribe_diarize mpt mvp nanochat
nemotron_h olmo_hybrid olmoe openai-gpt opt pegasus persimmon phi4_multimodal phimoe plbart qwen2_moe qwen3_5
qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen4_exp qwen4_exp_text recurrent_gemma rembert
roberta-prelayernorm roc_bert roformer rwkv sarvam_mla sarvam_moe solar_open trocr vaultgemma xglm xlm-roberta
xlm-roberta-xl xlstm xmod youtu zamba2 zaya
"""
#: Those that take no branch of this loader alone, as branch coverage says; ``make test-long`` walks them. What walks on each change takes
#: all branches together, and is of each kind of state and of attention.
ALIKE: Final = frozenset(_ALIKE.split())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.long) if kind in ELSEWHERE | ALIKE else kind
        for kind in sorted((SLOTS | RECOMPUTED) - set(UNMADE))
    ],
)
def test_a_decoder_is_what_transformers_computes(kind: str, tmp_path: Path, load_engine: Load) -> None:
    """To 2e-6 relative in float32 over the whole context, in the way that the lists say."""
    folder = tmp_path / "model"
    model = save(kind, folder)
    config = json.loads((folder / "config.json").read_text())
    assert refusal(config) is None
    if kind in FUSED:
        assert not DecoderConfig.from_dict(config).traits
        check(load_engine(folder, dtype="float32", implementation="fused"), model, 2e-6)
    engine = load_engine(folder, dtype="float32", implementation="transformers")
    assert way(engine) == ("slots" if kind in SLOTS else "recomputed"), engine.info.notes
    check(engine, model, 1e-5 if kind in AMPLIFYING else 2e-6)


@pytest.mark.parametrize(
    "kind",  # on each change one for each reason
    [
        pytest.param(kind, marks=pytest.mark.long) if kind in ("cpmant", "prophetnet", "xlm") else kind
        for kind in sorted(set(REFUSED) - set(_IMPOSSIBLE))
    ],
)
def test_what_no_text_can_be_generated_from_is_refused(kind: str, tmp_path: Path, load_engine: Load) -> None:
    """Before anything is loaded, with the reason; and the reason is true."""
    folder = tmp_path / "model"
    model, tokens = save(kind, folder), prompt(1, 24)
    with pytest.raises(UnsupportedModel) as caught:
        load_engine(folder)
    assert REFUSED[kind] in str(caught.value)
    if "depends on the tokens after it" in REFUSED[kind]:
        assert max(error(expected(model, tokens[:part]), expected(model, tokens)[:part]) for part in range(2, 24)) > 1e-3
    elif "random" in REFUSED[kind]:
        assert error(expected(model, prompt(1, CONTEXT)), expected(model, prompt(1, CONTEXT))) > 1e-3
    else:
        with pytest.raises(ValueError, match="cannot be None"):
            expected(model, tokens)


@pytest.mark.parametrize("kind", _IMPOSSIBLE)
def test_what_transformers_cannot_make_is_refused(kind: str) -> None:
    assert refusal({"model_type": kind}) == REFUSED[kind]
    with pytest.raises((StrictDataclassClassValidationError, AttributeError)):
        AutoModelForCausalLM.from_config(tiny_config(kind))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.long) if kind in ALIKE else kind for kind in sorted(ENCODERS)])
def test_an_encoder_makes_vectors_unless_its_config_makes_it_a_decoder(kind: str, tmp_path: Path, load_engine: Load) -> None:
    """Without ``is_decoder`` a token sees those after it, and transformers itself would generate noise: the mean of its hidden states is
    what transformers gives, packed too."""
    folder = tmp_path / "model"
    save(kind, folder, is_decoder=False)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    encoder: Any = load_engine(folder)
    assert isinstance(encoder.info, EncoderInfo)
    rows = [EncoderRow(prompt(seed, length)) for seed, length in ((1, 12), (2, 5), (3, 12))]
    with torch.inference_mode():
        hidden = [model(torch.tensor([list(row.tokens)])).last_hidden_state[0] for row in rows]
    wanted = np.stack([each.mean(0).numpy() for each in hidden])
    assert error(encoder.encode(rows), wanted) < 1e-4
    assert error(encoder.encode(rows[:1]), wanted[:1]) < 1e-4


def test_a_model_that_sees_what_comes_after_is_found_by_computing_it(tmp_path: Path, load_engine: Load) -> None:
    """Whatever switch of its config made it so."""
    save("gemma3_text", tmp_path / "model", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModel, match="depends on the tokens after it"):
        load_engine(tmp_path / "model")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "saved as BertForMaskedLM"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "saved as LlamaForSequenceClassification"),
        ({"model_type": "umt5"}, "no decoder of model_type 'umt5'"),
        ({"model_type": "blenderbot"}, "an encoder and a decoder"),
        ({"model_type": "t5"}, None),
        ({"model_type": "bart"}, None),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "saved as T5EncoderModel"),
        ({"model_type": "bart", "architectures": ["BartForSequenceClassification"]}, "saved as BartForSequenceClassification"),
        ({"model_type": "llama", "is_encoder_decoder": True}, "an encoder and a decoder"),
        ({}, "no model_type"),
        ({"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]}, None),
        ({"model_type": "bart", "is_encoder_decoder": False, "is_decoder": True}, None),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, None),
    ],
)
def test_the_config_alone_says_what_is_taken(config: dict[str, Any], reason: str | None) -> None:
    found = refusal(config)
    assert found is None if reason is None else found is not None and reason in found


def test_an_architecture_that_was_not_walked_is_recomputed(tmp_path: Path, load_engine: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later transformers brings may differ past the tokens that are tried at load."""
    monkeypatch.setattr("llmasos_backend_torch.general.is_known", {}.get)
    save("gemma2", tmp_path / "model")
    engine = load_engine(tmp_path / "model", dtype="float32")
    assert way(engine) == "recomputed"
    assert "never tried" in engine.info.notes[0]


def test_what_is_taken_is_said_without_a_framework() -> None:
    """Core asks each loader before it chooses one."""
    code = (
        "import pathlib, sys, types, llmasos_backend_torch as plugin\n"
        "takes = plugin.llmasos_component().takes\n"
        "for config in ({'model_type': 'umt5'}, {'model_type': 'mamba'}):\n"
        "    print(takes(types.SimpleNamespace(format='huggingface', config=config, path=pathlib.Path('nowhere'))))\n"
        "print(takes(types.SimpleNamespace(format='torch_export', config={}, path=pathlib.Path('nowhere'))))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    assert said == ["transformers has no decoder of model_type 'umt5'", "None", "None"]


def test_the_lists_are_those_of_transformers() -> None:
    """Each decoder of transformers is in one of them, and nothing else."""
    assert sorted([*SLOTS, *RECOMPUTED, *REFUSED]) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert FUSED <= SLOTS
    assert ENCODERS | ALIKE <= SLOTS | RECOMPUTED


@pytest.mark.long  # another transformers alone changes it, and all of its configs have to be imported
def test_those_of_an_encoder_and_a_decoder_are_those_of_transformers() -> None:
    """Whose config has an encoder by default."""
    two = {kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False)}
    assert two - set(REFUSED) == ENCODER_DECODERS


def test_the_page_of_architectures_is_made_from_the_lists() -> None:
    """``LLMASOS_WRITE_DOCS=1`` writes it anew."""
    rows = []
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        how = (
            "fused" if kind in FUSED else "slots" if kind in SLOTS else "recomputed" if kind in RECOMPUTED else f"refused: {REFUSED[kind]}"
        )
        how += (
            ", where `is_decoder` is true"
            if kind in ENCODERS
            else ", where `is_encoder_decoder` is false"
            if kind in ENCODER_DECODERS
            else ""
        )
        how += f" (not walked: {UNMADE[kind]})" if kind in UNMADE else ""
        rows.append(f"| `{kind}` | {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]} | {how} |")
    table = "\n".join(["| model_type | class | how |", "| --- | --- | --- |", *rows, ""])
    text = DOCS.read_text()
    head, _, _ = text.partition("| model_type |")
    if os.environ.get("LLMASOS_WRITE_DOCS"):
        DOCS.write_text(head + table)
    assert DOCS.read_text() == head + table
