"""How published tokenizers cut text, as their tokenizer.json files say it: for each name of ``tokenizer.ggml.pre``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from .conftest import SPECIAL, USER_DEFINED

CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
#: DeepSeek LLM's letters: those with upper and lower case, but for the blocks and scripts that its list leaves out (small Armenian
#: letters, Georgian but for capitals, new Latin ones, mathematical alphabets, ...).
DEEPSEEK_LETTERS = (
    r"[\p{Lu}\p{Ll}\p{Lt}&&[^\x{560}-\x{588}\x{10C7}\x{10CD}\x{10D0}-\x{10FF}\x{1C80}-\x{1C8F}\x{2D00}-\x{2D2F}\x{A790}-\x{A7FF}"
    r"\x{AB30}-\x{AB6F}\x{10570}-\x{105BF}\x{10D50}-\x{10D8F}\x{16E40}-\x{16EFF}\x{1D400}-\x{1D7FF}\x{1DF00}-\x{1DFFF}]]"
)
NFC = {"type": "NFC"}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTE_LEVEL | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def rule(*steps: Any, normalizer: Any = None, ignore_merges: bool = False) -> dict[str, Any]:
    """What differs from one tokenizer.json to the next; text stands for a split followed by the spelling in bytes."""
    found = [split(step) if isinstance(step, str) else step for step in steps]
    if not any(step["type"] == "ByteLevel" for step in found):
        found.append(BYTE_LEVEL)
    return {"normalizer": normalizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": found}, "ignore_merges": ignore_merges}


CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
DEEPSEEK_CJK = "[一-龥\u0800-一가-\ud7ff]+"
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"

PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt-2": rule(GPT2),
    "mpt": rule(GPT2, normalizer=NFC),
    "smollm": rule(DIGITS, GPT2),
    "command-r": rule(DIGITS, GPT2, normalizer=NFC),
    "llama-bpe": rule(CL100K, ignore_merges=True),
    "dbrx": rule(CL100K),
    "glm4": rule(CL100K, ignore_merges=True),
    "qwen2": rule(QWEN2, normalizer=NFC),
    "grok-2": rule(QWEN2),
    "qwen35": rule(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        normalizer=NFC,
    ),
    "tekken": rule(TEKKEN, ignore_merges=True),
    "gpt-4o": rule(O200K, ignore_merges=True),
    "minimax-m2": rule(O200K),
    "tiny_aya": rule(r"\d{1,3}(?=(?:\d{3})*\b)", O200K),
    "kimi-k2": rule(KIMI, ignore_merges=True),
    "deepseek-llm": rule(
        "[\r\n]", f"\\s?{DEEPSEEK_LETTERS}+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", "\\s+$", DEEPSEEK_CJK, DIGITS
    ),
    "deepseek-coder": rule("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, DIGITS),
    "deepseek-v3": rule("\\p{N}{1,3}", CJK, DEEPSEEK3),
    "spark2_5": rule(
        "\\p{N}{1,3}",
        CJK,
        DEEPSEEK3.replace(r"[\r\n]*|\s*[\r\n]+", r"|[\r\n]"),
        DIGITS,
    ),
    "youtu": rule(
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + CJK, O200K.replace(r"\p{N}{1,3}", r"\p{N}"), ignore_merges=True
    ),
    "falcon": rule(
        {"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False}, "[0-9][0-9][0-9]"
    ),
    "bloom": rule(BLOOM),
    "viking": rule(BLOOM, DIGITS),
    "jais-2": rule(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)"
        r"|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
    ),
    "chameleon": rule(
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        "([\t\n]|    |  )",
        DIGITS,
        {"type": "Punctuation", "behavior": "Isolated"},
        GPT2,
    ),
    "superbpe": rule("\\p{N}+", "(?=(\\d{3})+(?!\\d))"),
    "bailingmoe": rule(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "seed-coder": rule(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    ),
    "ufakzeka": rule(QWEN2.removeprefix("(?i:'s|'t|'re|'ve|'m|'ll|'d)|")),
    "afmoe": rule(
        "\\p{N}+",
        "(?=(\\p{N}{3})+(?!\\p{N}))",
        "[一-鿿㐀-䶿\uf900-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff가-\ud7af\u1100-\u11ff]+",
        DEEPSEEK3,
    ),
    "laguna": rule(split(r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext"), QWEN2),
    "exaone-moe": rule(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        r"|\s+(?!\S)|\s+"
    ),
    "minicpm5": rule("\\p{N}{1,3}", CL100K.replace("{1,3}", "+"), ignore_merges=True),
}  # fmt: skip

#: Names that share another's rule.
SAME = {
    "gpt-2": (
        "default", "phi-2", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "gigachat",
        "a.x-4.0", "mellum", "jais", "trillion", "granite-docling", "exaone4",
    ),
    "mpt": ("olmo", "modern-bert"),
    "smollm": ("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    "dbrx": ("smaug-bpe",),
    "glm4": ("glm5", "chatglm-bpe"),
    "qwen2": ("deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2", "hunyuan"),
    "grok-2": ("solar-open",),
    "gpt-4o": ("llama4", "kanana2", "talkie", "granite-embed-multi-97m"),
    "tiny_aya": ("cohere2moe",),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm", "hy_v4"),
    "bloom": ("gpt3-finnish", "poro-chat"),
    "bailingmoe": ("bailingmoe2", "llada-moe"),
}  # fmt: skip


def published(tokens: Sequence[str], merges: Sequence[str], name: str, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """The tokenizer.json that a model of this rule and vocabulary would have been published with."""
    described: dict[str, Any] = {
        "version": "1.0",
        "normalizer": PUBLISHED[name]["normalizer"],
        "pre_tokenizer": PUBLISHED[name]["pre_tokenizer"],
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: place for place, token in enumerate(tokens)},
            "merges": list(merges),
            "ignore_merges": PUBLISHED[name]["ignore_merges"],
        },
        "added_tokens": [
            {"id": tokens.index(token), "content": token, "special": token in special}
            | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for token in (*special, *USER_DEFINED)
            if token in tokens
        ],
    }
    return Tokenizer.from_str(json.dumps(described))
