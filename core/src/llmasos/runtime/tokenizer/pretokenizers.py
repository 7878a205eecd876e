"""How a byte-level vocabulary cuts text before it merges, by the name that GGUF gives it in ``tokenizer.ggml.pre``.

The expressions are those the models were trained with; llama.cpp's ``llama-vocab.cpp`` lists the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from tokenizers import Regex, pre_tokenizers

_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION: Final = r" ?[^\s\p{L}\p{N}]+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_LLAMA3: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_PUNCTUATION}[\r\n]*{_REST}"
_QWEN2: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_PUNCTUATION}[\r\n]*{_REST}"
_TEKKEN: Final = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_PUNCTUATION}[\r\n/]*{_REST}"
_GPT4O: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{_PUNCTUATION}[\r\n/]*{_REST}"
)


@attrs.frozen
class PreTokenizer:
    """One way of cutting.

    Attributes:
        pattern: what matches and what lies between matches becomes a word each; None: GPT-2's own expression.
        digits: every digit is a word of its own, before the rest.
        ignore_merges: a word that is a token as a whole is taken at once, as the models' own tokenizers have it.
    """

    pattern: str | None = None
    digits: bool = False
    ignore_merges: bool = False

    def build(self) -> Any:
        """As a ``tokenizers`` pre-tokenizer; what it gives is spelt in the byte alphabet."""
        steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        if self.pattern is not None:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


_GPT2_STYLE: Final = PreTokenizer()
_DIGITS_GPT2_STYLE: Final = PreTokenizer(digits=True)
_LLAMA3_STYLE: Final = PreTokenizer(_LLAMA3, ignore_merges=True)
_QWEN2_STYLE: Final = PreTokenizer(_QWEN2)
_TEKKEN_STYLE: Final = PreTokenizer(_TEKKEN, ignore_merges=True)
_GPT4O_STYLE: Final = PreTokenizer(_GPT4O, ignore_merges=True)

#: ``tokenizer.ggml.pre`` -> how it cuts. A file without the key, or with ``default``, was made before there was one. ``smollm``
#: stands with GPT-2's because transformers reads it so; the original tokenizer also cuts digits off first, which gives other
#: tokens only where two or more spaces or line ends precede a digit.
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "olmo", "jina-es", "jina-de", "mpt", "roberta-bpe", "smollm"), _GPT2_STYLE),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS_GPT2_STYLE),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe"), _LLAMA3_STYLE
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2"), _QWEN2_STYLE),
    "tekken": _TEKKEN_STYLE,
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O_STYLE),
}
