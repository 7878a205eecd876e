"""How a byte-level vocabulary cuts text before it merges, by the name that GGUF gives it in ``tokenizer.ggml.pre``.

The names are those of llama.cpp's ``llama-vocab.cpp``. Each rule is the one in the tokenizer.json that the model was published with:
llama.cpp leaves out Unicode normalisation and rewrites some expressions for an engine without look-ahead, and transformers'
reader of GGUF files drops steps, so neither is followed where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from tokenizers import Regex, normalizers, pre_tokenizers

from llmasos_tokenizing import expressions as e

#: One step of a pipeline, built anew for each tokenizer.
Step = Callable[[], Any]


def _split(pattern: str, behavior: str = "isolated") -> Step:
    return lambda: pre_tokenizers.Split(Regex(pattern), behavior=behavior)


def _digits() -> Any:
    return pre_tokenizers.Digits(individual_digits=True)


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _spell() -> Any:
    """Spells the words that the steps before it cut in the byte alphabet."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@attrs.frozen
class PreTokenizer:
    """One way of cutting.

    Attributes:
        steps: what cuts, in order; one of them spells words in the byte alphabet.
        nfc: the text is brought into Unicode's composed form first.
        ignore_merges: a word that is a token as a whole is taken at once.
        adds_bos: a BOS is added before the text where the file does not say whether.
    """

    steps: tuple[Step, ...]
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def build(self) -> Any:
        """As a ``tokenizers`` pre-tokenizer; what it gives is spelt in the byte alphabet."""
        steps = [step() for step in self.steps]
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)

    def normalizer(self) -> Any:
        """As a ``tokenizers`` normalizer, or None."""
        return normalizers.NFC() if self.nfc else None


def _splits(*patterns: str, **flags: bool) -> PreTokenizer:
    return PreTokenizer((*(_split(pattern) for pattern in patterns), _spell), **flags)


_GPT2_STYLE: Final = PreTokenizer((_gpt2,))
_NEOX_STYLE: Final = PreTokenizer((_gpt2,), nfc=True)
_DIGITS_GPT2_STYLE: Final = PreTokenizer((_digits, _gpt2))
_LLAMA3_STYLE: Final = _splits(e.LLAMA3, ignore_merges=True, adds_bos=True)
_QWEN2_STYLE: Final = _splits(e.QWEN2, nfc=True)
_TEKKEN_STYLE: Final = _splits(e.TEKKEN, ignore_merges=True, adds_bos=True)
_GPT4O_STYLE: Final = _splits(e.GPT4O, ignore_merges=True)
_DEEPSEEK3_STYLE: Final = _splits(e.DIGITS_BY_THREE, e.CJK, e.DEEPSEEK3)
_BLOOM_STYLE: Final = _splits(e.BLOOM)
_TINY_AYA_STYLE: Final = _splits(e.THOUSANDS, e.GPT4O)
_BAILING_STYLE: Final = _splits(e.BAILING)

#: ``tokenizer.ggml.pre`` -> how it cuts. ``default`` also stands for files from before there was the key: most of those were made
#: of models that cut as GPT-2 does.
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    **dict.fromkeys(
        (
            "default", "gpt-2", "phi-2", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code",
            "gigachat", "a.x-4.0", "mellum", "jais", "trillion", "granite-docling", "exaone4",
        ),
        _GPT2_STYLE,
    ),
    # GPT-NeoX's tokenizer and those made from it compose characters first, which llama.cpp leaves out.
    **dict.fromkeys(("mpt", "olmo", "modern-bert"), _NEOX_STYLE),
    **dict.fromkeys(("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), _DIGITS_GPT2_STYLE),
    "command-r": PreTokenizer((_digits, _gpt2), nfc=True),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"), _LLAMA3_STYLE
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _splits(e.LLAMA3)),
    # These vocabularies were made for tiktoken, which takes a word that is a token as a whole.
    **dict.fromkeys(("chatglm-bpe", "glm4", "glm5"), _splits(e.LLAMA3, ignore_merges=True)),
    # Qwen's own tokenizer composes characters first, and so do those made from it; llama.cpp leaves it out.
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2", "hunyuan"), _QWEN2_STYLE),
    "qwen35": _splits(e.QWEN35, nfc=True),
    **dict.fromkeys(("grok-2", "solar-open"), _splits(e.QWEN2)),
    "tekken": _TEKKEN_STYLE,
    # granite-embed-multi-97m: llama.cpp's expression for it is a rewriting of this one.
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "granite-embed-multi-97m"), _GPT4O_STYLE),
    "minimax-m2": _splits(e.GPT4O),
    # llama.cpp also groups digits that a letter follows; the published expression asks for a word's end.
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _TINY_AYA_STYLE),
    "kimi-k2": _splits(e.KIMI, ignore_merges=True),
    # The published tokenizer cuts digits one by one; llama.cpp keeps them together.
    "deepseek-llm": PreTokenizer(
        (_split(e.LINE_END), _split(e.CASED), _split(e.WIDE_PUNCTUATION), _split(e.TRAILING_SPACE), _split(e.DEEPSEEK_CJK), _digits, _spell)
    ),
    "deepseek-coder": PreTokenizer(
        (_split(e.LINE_END), _split(e.LETTERS), _split(e.PUNCTUATION), _split(e.DEEPSEEK_CJK), _digits, _spell)
    ),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK3_STYLE),
    "spark2_5": PreTokenizer((_split(e.DIGITS_BY_THREE), _split(e.CJK), _split(e.SPARK), _digits, _spell)),
    "youtu": _splits(e.YOUTU_SCRIPTS, e.YOUTU, ignore_merges=True),
    # The last two steps see words in the byte alphabet, where some bytes are spelt by digits such as ².
    "falcon": PreTokenizer(
        (
            lambda: pre_tokenizers.Punctuation(behavior="contiguous"),
            _gpt2,
            lambda: pre_tokenizers.Digits(individual_digits=False),
            _split(e.THREE_DIGITS),
        )
    ),
    **dict.fromkeys(("bloom", "gpt3-finnish", "poro-chat"), _BLOOM_STYLE),
    "viking": PreTokenizer((_split(e.BLOOM), _digits, _spell)),
    "jais-2": _splits(e.JAIS2),
    "chameleon": PreTokenizer(
        (
            _split(e.SENTINEL),
            _split(e.IMAGES),
            _split(e.CHAMELEON_SPACES),
            _digits,
            lambda: pre_tokenizers.Punctuation(behavior="isolated"),
            _gpt2,
        ),
        adds_bos=True,
    ),
    "superbpe": _splits(e.NUMBERS, e.BEFORE_THOUSANDS),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING_STYLE),
    "seed-coder": _splits(e.SEED_CODER),
    "ufakzeka": _splits(e.UFAKZEKA),
    "afmoe": _splits(e.NUMBERS_BY_THREE, e.AFMOE_SCRIPTS, e.DEEPSEEK3),
    # A run of line ends goes to what follows it; llama.cpp makes it a word of its own.
    "laguna": PreTokenizer((_split(e.LAGUNA_LINES, "merged_with_next"), _split(e.QWEN2), _spell)),
    "exaone-moe": _splits(e.EXAONE_MOE),
    "minicpm5": _splits(e.DIGITS_BY_THREE, e.MINICPM5, ignore_merges=True),
}  # fmt: skip

#: Names whose vocabularies are SentencePiece's pieces with the merges written out, under the model ``gpt2`` or ``gemma4``.
PIECES_WITH_MERGES: Final = frozenset({"gemma4", "granite-embed-multi-311m", "sarvam-moe"})

#: Names that llama.cpp lists and that are not read -> what they are for.
UNREAD: Final[Mapping[str, str]] = {"whitespace": "an embedding model whose words are no bytes"}
