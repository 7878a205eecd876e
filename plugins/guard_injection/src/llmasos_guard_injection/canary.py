"""Finds a canary in an answer while it is written, also in another case and with separators between its characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from llmasos_hookspecs import Block

#: Other characters that may stand between two of the canary's.
GAP: Final = 3


def letters(canary: str) -> str:
    """What is looked for: its letters and digits in lower case."""
    return "".join(each for each in canary.lower() if each.isalnum())


def fallbacks(word: str) -> list[int]:
    """For each number of characters of ``word`` that match, how many still match when the next one does not (Knuth, Morris, Pratt)."""
    found = [0] * (len(word) + 1)
    length = 0
    for place in range(1, len(word)):
        while length and word[place] != word[length]:
            length = found[length]
        length += word[place] == word[length]
        found[place + 1] = length
    return found


class CanaryStream:
    """One answer. Kept back is what could become the canary."""

    def __init__(self, word: str, falls: Sequence[int]) -> None:
        self._word: Final = word
        self._falls: Final = falls
        self._first: Final = re.compile(re.escape(word[:1]) or r"\Z", re.IGNORECASE)
        self._kept = ""  # from the first character that matches
        self._places: list[int] = []  # of the characters that match, in what is kept
        self._gap = 0

    def push(self, piece: str) -> str | Block:
        """What may be shown now."""
        released: list[str] = []
        at = 0
        while at < len(piece):
            if not self._places:  # then nothing is kept, and nothing is before the canary's first character
                found = self._first.search(piece, at)
                begin = len(piece) if found is None else found.start()
                released.append(piece[at:begin])
                if begin == len(piece):
                    break
                at = begin
            character = piece[at]
            at += 1
            self._kept += character
            if character.isalnum():
                self._match(character.lower())
            else:
                self._gap += 1
                if self._gap > GAP:
                    self._places = []
            first = self._places[0] if self._places else len(self._kept)
            if first:
                released.append(self._kept[:first])
                self._kept = self._kept[first:]
                self._places = [place - first for place in self._places]
            if len(self._places) == len(self._word):
                return Block("it holds the canary of the system prompt", "".join(released))
        return "".join(released)

    def end(self) -> str:
        """What was kept back."""
        kept, self._kept, self._places = self._kept, "", []
        return kept

    def _match(self, character: str) -> None:
        matched = len(self._places)
        while matched and self._word[matched] != character:
            matched = self._falls[matched]
        matched += self._word[matched] == character
        self._places = [*self._places, len(self._kept) - 1][len(self._places) + 1 - matched :] if matched else []
        self._gap = 0
