"""Which transformers architectures this loader supports, and how: decided from config.json alone, without importing a framework.

A test runs a tiny model of every transformers decoder over its whole context and compares the results with these lists;
docs/architectures.md shows them. Architectures of newer transformers versions are recomputed without a KV cache, which makes no assumption
about their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from llmasos_backend_torch.seq2seq.config import KINDS as SEQ2SEQ_KINDS, is_encoder_decoder
from llmasos_backend_torch.vision import KINDS as VISION_KINDS

#: The version of transformers whose decoders were tested.
WALKED: Final = (5, 24)


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: ``model_type`` values that run with the KV cache in our slots. The checks at load decide for each config.
SLOTS: Final = _names(
    """
    afmoe apertus apertus1p5_text arcee aria_text axk1 beam bert bert-generation biogpt bitnet codegen cohere cohere2 cohere2_moe
    cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 dots1 electra emu3 ernie ernie4_5 ernie4_5_moe exaone exaone4
    exaone_moe flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified_text glm glm4
    glm4_moe glm4_moe_lite got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna
    llama longcat_flash mellum mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral mllama modernbert-decoder
    moshi moss_transcribe_diarize nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phi4_multimodal phimoe qwen2
    qwen2_moe qwen3 qwen3_moe roc_bert sarvam_mla sarvam_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma whisper
    youtu
    """
)

#: Those that are recomputed each step: they have state besides keys and values, or their own form of attention.
RECOMPUTED: Final = _names(
    """
    axk2 bailing_hybrid bamba bart big_bird bigbird_pegasus blenderbot blenderbot-small bloom blt camembert data2vec-text deepseek_v32
    deepseek_v4 diffllama doge dory dots3_note dots3_note_text falcon falcon_h1 falcon_mamba gemma3n gemma4_unified git glm_moe_dsa
    gpt_neo gpt_neox_japanese granitemoehybrid hrm_text hy_v4 inkling2_loop_text inkling2_text inkling_text jamba kimi_linear
    lara_mini lfm2 lfm2_moe lfm3 llama4 llama4_text mamba mamba2 marian mbart megatron-bert minimax minimax_m3_vl_text mpt mvp
    nemotron_h olmo_hybrid openai-gpt pegasus plbart qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp
    qwen4_exp_text recurrent_gemma rembert roberta roberta-prelayernorm roformer rwkv trocr xglm xlm-roberta xlm-roberta-xl xlstm
    xmod zamba zamba2 zaya
    """
)

#: Encoders that are decoders if their config sets ``is_decoder``.
ENCODERS: Final = _names(
    """
    bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert
    roformer xlm-roberta xlm-roberta-xl xmod
    """
)

#: Encoder-decoders whose decoder runs alone if their config sets ``is_encoder_decoder`` to false.
ENCODER_DECODERS: Final = _names("bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart whisper")

_AFTER: Final = "it is no decoder: what it gives for a token depends on the tokens after it"
_ASSISTANT: Final = "it is an assistant that reads another model's hidden states and keys"
_AUDIO: Final = "it is a decoder of sound, and transformers has no text model for it"

#: Unsupported ones, each with the reason.
REFUSED: Final[Mapping[str, str]] = {
    "cpmant": _AFTER,
    "gemma4_assistant": _ASSISTANT,
    "gemma4_unified_assistant": _ASSISTANT,
    "musicgen": _AUDIO,
    "musicgen_melody": _AUDIO,
    "prophetnet": _AFTER,
    "reformer": "its attention draws random numbers, so that no two computations agree",
    "xlm": _AFTER,
    "xlnet": _AFTER,
}

#: Parts of class names that mark models saved for other purposes than text generation.
_OTHER_TASKS: Final = (
    "ForMaskedLM", "Classification", "ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction", "ForPreTraining",
    "EncoderModel",
)  # fmt: skip


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why this loader does not support the model of a config.json, as the end of a sentence; None if it does."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return "its config.json has no model_type"
    if kind in REFUSED:
        return REFUSED[kind]
    whole = is_encoder_decoder(config)
    if not (whole or kind in VISION_KINDS or is_known(kind) or _is_newer()):
        return f"transformers has no decoder of model_type {kind[:40]!r}"
    saved = [name for name in config.get("architectures") or () if isinstance(name, str)]
    other = next((name for name in saved if any(task in name for task in _OTHER_TASKS)), None)
    if other is not None:
        return f"it was saved as {other[:80]}, which does not generate text"
    if whole:
        return None
    if config.get("is_encoder_decoder", kind in ENCODER_DECODERS):
        return f"its model_type {kind!r} is an encoder and a decoder, and of these only {', '.join(SEQ2SEQ_KINDS)} are computed"
    if kind in ENCODERS and config.get("is_decoder") is not True:
        return f"its model_type {kind!r} is an encoder: its config.json has no is_decoder"
    return None


def is_known(kind: object) -> bool:
    """Whether decoders of this ``model_type`` were tested."""
    return kind in SLOTS or kind in RECOMPUTED


def _is_newer() -> bool:
    """Whether the installed transformers may know more architectures than were tested."""
    try:
        found = version("transformers").split(".")
    except PackageNotFoundError:
        return False
    return tuple(int(part) for part in found[:2] if part.isdecimal()) > WALKED
