"""SentencePiece's precompiled rules for characters (``NormalizerSpec.precompiled_charsmap``), applied as SentencePiece applies them.

The rules lie in a double-array trie (Aoe, 1989; in the form of darts-clone) from UTF-8 strings to places in a table of replacements.
The ``tokenizers`` library reads the same form but applies it grapheme by grapheme, which gives other text where a rule covers several
characters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_tokenizing.longest import Longest

#: The bit of a unit of the trie that holds a value rather than a child.
_LEAF: Final = 1 << 31
#: What rules of real models replace has at most 18 bytes, and there are some 50,000 nodes; the trie of a damaged file may loop.
_LONGEST: Final = 64
_MOST: Final = 2_000_000


class Charsmap:
    """The rules of one model.

    Attributes:
        starts: the characters with which what is replaced begins.

    Raises:
        ValueError, IndexError: the bytes are no such rules.
    """

    def __init__(self, blob: bytes) -> None:
        size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else 1
        if size % 4 or 4 + size > len(blob):
            raise ValueError("the rules for characters are cut off")
        table = blob[4 + size :]
        texts: dict[int, str] = {}
        self._rules: dict[str, str] = {}
        for keys, places in _entries(np.frombuffer(blob, "<u4", size // 4, 4)):
            texts |= {place: _text_at(table, place) for place in {*places} - texts.keys()}
            self._rules.update(zip(keys, map(texts.__getitem__, places), strict=True))
        self._keys = Longest(self._rules)

    @property
    def starts(self) -> str:
        return self._keys.starts

    def replacement(self, text: str, place: int) -> tuple[str, int] | None:
        """What replaces the longest text at ``place`` that a rule covers, and the length of that text; None where no rule does."""
        found = self._keys.at(text, place)
        return None if found is None else (self._rules[found], len(found))


def _text_at(table: bytes, place: int) -> str:
    end = table.find(b"\0", place)
    if place > len(table) or end < 0:
        raise ValueError("a rule for characters points past its table")
    return table[place:end].decode()


def _entries(units: npt.NDArray[np.uint32]) -> Iterator[tuple[list[str], list[int]]]:
    """Every key of a trie and its value, those of one length after the other: there are 225,000 in what most models have.

    A unit is a node that names the byte by which it is reached. A node's children lie at its base XOR their bytes, so that of every
    unit the base of its parent is known; several parents may share one.
    """
    places = np.arange(len(units), dtype=np.uint32)
    bases = places ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    named = np.flatnonzero(((units & _LEAF) == 0) & ((units & 0xFF) != 0))
    of_parents = (places ^ (units & 0xFF))[named]
    order = np.argsort(of_parents, kind="stable")
    of_parents, named = of_parents[order], named[order]
    nodes, keys, count = np.zeros(1, np.intp), np.zeros((1, 0), np.uint8), 0
    while len(nodes):
        if keys.shape[1]:
            ends = (units[nodes] >> 8 & 1) == 1
            # No key holds a zero, which is the byte of no node.
            found = np.pad(keys[ends], ((0, 0), (0, 1))).tobytes().decode().split("\0")[:-1]
            yield found, (units[bases[nodes[ends]]] & (_LEAF - 1)).tolist()
        first = np.searchsorted(of_parents, bases[nodes])
        below = np.searchsorted(of_parents, bases[nodes], "right") - first
        count += int(below.sum())
        if keys.shape[1] >= _LONGEST or count > _MOST:
            raise ValueError("the rules for characters loop")
        ahead = np.cumsum(below) - below
        nodes = named[np.arange(int(below.sum())) + np.repeat(first - ahead, below)]
        keys = np.column_stack([np.repeat(keys, below, axis=0), (units[nodes] & 0xFF).astype(np.uint8)])
