"""Text in sentences, and sentences in chunks that fit a token budget."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmasos_hookspecs import Tokenizer
from llmasos_task_kit.prompting import head

# A sentence ends behind . ! ? … (with closing quotes or brackets) before white space, behind their full-width forms anywhere,
# and at a line's end.
_END = re.compile(r"""(?:[.!?…]+["'”’)\]]*(?=\s)|[。！？]+["'”’」』）]*|\n)\s*""")

# After these a full stop ends no sentence.
_ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|Nr|vs|etc|e\.g|i\.e|z\.B|d\.h|bzw|[A-Z])\.\s*$")

_BLANK_LINE = re.compile(r"\n\s*\n\s*")


def sentences(text: str) -> Iterator[str]:
    """Sentences of ``text`` with the white space that follows them; joined they are ``text``."""
    begin = 0
    for match in _END.finditer(text):
        if match.group()[0] == "." and "\n" not in match.group():
            goes_on = text[match.end() : match.end() + 1].islower()
            if goes_on or _ABBREVIATIONS.search(text, max(begin, match.end() - 12), match.end()):
                continue
        if match.end() > begin:
            yield text[begin : match.end()]
            begin = match.end()
    if begin < len(text):
        yield text[begin:]


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of ``text`` with the blank lines that follow them; joined they are ``text``."""
    begin = 0
    for match in _BLANK_LINE.finditer(text):
        yield text[begin : match.end()]
        begin = match.end()
    if begin < len(text):
        yield text[begin:]


def chunks(text: str, tokens: int, tokenizer: Tokenizer, *, across_paragraphs: bool = True) -> list[str]:
    """``text`` in chunks of at most ``tokens`` tokens that end where sentences end; joined they are ``text``.

    Only a sentence that is longer than ``tokens`` by itself is cut, at white space where it has any. With ``across_paragraphs``
    off, no chunk holds parts of two paragraphs.
    """
    if across_paragraphs and text and len(tokenizer.encode(text, special=False)) <= tokens:
        return [text]
    found: list[str] = []
    for block in (text,) if across_paragraphs else paragraphs(text):
        open_chunk, size = "", 0
        for sentence in sentences(block):
            for piece in _pieces(sentence, tokens, tokenizer):
                count = len(tokenizer.encode(piece, special=False))
                if open_chunk and size + count > tokens:
                    found.append(open_chunk)
                    open_chunk, size = "", 0
                open_chunk += piece
                size += count
        if open_chunk:
            found.append(open_chunk)
    return found


def _pieces(sentence: str, tokens: int, tokenizer: Tokenizer) -> Iterator[str]:
    while sentence:
        piece = head(sentence, tokens, tokenizer) or sentence[0]  # one character may take more tokens than there are
        if len(piece) < len(sentence):
            space = max(piece.rfind(mark) + 1 for mark in (" ", "\t", ",", "，", "、", ";", "；"))
            piece = piece[:space] or piece
        yield piece
        sentence = sentence[len(piece) :]
