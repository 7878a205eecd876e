"""The regular expressions with which models' published tokenizers cut text, in Oniguruma's syntax.

Alternatives are tried in order. Sets of characters that are ranges of code points are given as such.
"""

from __future__ import annotations

from typing import Final


def _ranges(code_points: str) -> str:
    """``"41-5A B5"`` as the inside of a set of characters."""
    return "".join("-".join(rf"\x{{{end}}}" for end in part.split("-")) for part in code_points.split())


_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES: Final = r"|\s+(?!\S)|\s+"
_REST: Final = rf"|\s*[\r\n]+{_SPACES}"
_SYMBOLS: Final = r" ?[^\s\p{L}\p{N}]+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ASCII_PUNCTUATION: Final = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"


def _cased(upper: str, lower: str, ending: str = "") -> str:
    """A word in which no upper-case letter follows a lower-case one."""
    return rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{ending}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{ending}"


LLAMA3: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*{_REST}"
QWEN2: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*{_REST}"
QWEN35: Final = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_REST}"
TEKKEN: Final = rf"{_cased(_UPPER, _LOWER)}|\p{{N}}|{_SYMBOLS}[\r\n/]*{_REST}"
GPT4O: Final = rf"{_cased(_UPPER, _LOWER, _CONTRACTION + '?')}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n/]*{_REST}"
UFAKZEKA: Final = rf"{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*{_REST}"
MINICPM5: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}[\r\n]*{_REST}"
SEED_CODER: Final = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_REST}"
BAILING: Final = rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]{_SPACES}"
EXAONE_MOE: Final = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|{_SYMBOLS}[\r\n/]?|\s*[\r\n]{_SPACES}"
)
#: Spaces in powers of two.
JAIS2: Final = (
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]+"
    + "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s{1}"
)
#: Chinese characters apart from all other letters.
KIMI: Final = (
    r"[\p{Han}]+|"
    + _cased(
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", _CONTRACTION + "?"
    )
    + rf"|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*{_REST}"
)  # fmt: skip

NUMBERS: Final = r"\p{N}+"
DIGITS_BY_THREE: Final = r"\p{N}{1,3}"
THREE_DIGITS: Final = r"[0-9][0-9][0-9]"
#: Groups of three, counted from the right.
NUMBERS_BY_THREE: Final = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
THOUSANDS: Final = r"\d{1,3}(?=(?:\d{3})*\b)"
BEFORE_THOUSANDS: Final = r"(?=(\d{3})+(?!\d))"

LINE_END: Final = r"[\r\n]"
TRAILING_SPACE: Final = r"\s+$"
LETTERS: Final = r"\s?\p{L}+"
PUNCTUATION: Final = r"\s?\p{P}+"
#: DeepSeek LLM's letters: those of scripts with upper and lower case, as they were counted when it was made.
CASED: Final = (
    r"\s?["
    + _ranges(
        "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 "
        "48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 "
        "1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC "
        "1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 "
        "2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 "
        "FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
    )
    + "]+"
)
WIDE_PUNCTUATION: Final = r"\s?[" + _ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002") + "]+"
DEEPSEEK_CJK: Final = "[" + _ranges("4E00-9FA5 800-4E00 AC00-D7FF") + "]+"
CJK: Final = "[" + _ranges("4E00-9FA5 3040-309F 30A0-30FF") + "]+"
DEEPSEEK3: Final = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*{_REST}"
SPARK: Final = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+|[\r\n]{_SPACES}"
YOUTU_SCRIPTS: Final = "|".join(
    f"[{_ranges(script)}]+"
    for script in (
        "AC00-D7A3 3131-318E",
        "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F",
        "3105-312F",
        "4E00-9FA5 3040-309F 30A0-30FF",
    )
)
YOUTU: Final = rf"{_cased(_UPPER, _LOWER, _CONTRACTION + '?')}|\p{{N}}|{_SYMBOLS}[\r\n/]*{_REST}"
#: Chinese, Japanese, Thai, Lao, Khmer, Burmese and Korean.
AFMOE_SCRIPTS: Final = (
    "["
    + _ranges(
        "4E00-9FFF 3400-4DBF F900-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF 1000-109F AA60-AA7F A9E0-A9FF "
        "AC00-D7AF 1100-11FF"
    )
    + "]+"
)
LAGUNA_LINES: Final = r"(?:\r?\n)+(?!\r?\n)"
#: What is no white space, parenthesis, bar or sentence's punctuation; a set within a set joins it.
BLOOM: Final = r" ?[^(\s|[.,!?" + _ranges("2026 3002 FF0C 3001 964 6D4 60C") + "])]+"
SENTINEL: Final = r"<sentinel:[0-9]+>"
IMAGES: Final = r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"
CHAMELEON_SPACES: Final = r"([\t\n]|    |  )"
