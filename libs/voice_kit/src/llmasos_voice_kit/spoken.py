"""Texts as synthesizers can take them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: By these espeak-ng and what is built on it know phonemes.
_PHONEMES: Final = re.compile(r"\[(?=\[)|\](?=\])")
#: Control characters, surrogates, private characters: nothing of it can be said.
_SILENT: Final = ("Cc", "Cs", "Co", "Cn")


def speakable(text: str) -> str:
    """The text with blanks in place of control characters and of what cannot be encoded; double brackets are taken apart, because
    synthesizers read phonemes between them. Empty where no letter, digit or symbol is left."""
    kept = "".join(" " if unicodedata.category(letter) in _SILENT else letter for letter in text)
    kept = " ".join(_PHONEMES.sub(lambda found: found[0] + " ", kept).split())
    return kept if any(unicodedata.category(letter)[0] in "LNS" for letter in kept) else ""
