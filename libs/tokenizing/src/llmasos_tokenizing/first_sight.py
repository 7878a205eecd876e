"""Checks an unknown tokenizer.json in a child process before it is loaded in this one.

The tokenizers library has no limits: a file of a few lines can make it take all memory, or abort the process. ``probe`` checks the file
against limits that no published tokenizer comes near, loads it, and encodes and decodes some texts. Only files that pass are loaded here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from llmasos_hookspecs import ApartError, ApartLimits, CheckpointError, VirtualPath
from llmasos_hookspecs.remembered import Remembered

#: Version of the checks: increased when ``probe`` checks more.
_VERSION: Final = 2
#: Gemma's file, the largest in use, takes 0.9 GB and three seconds.
_LIMITS: Final = ApartLimits(memory=3 << 30, cpu_seconds=60, seconds=120)

#: How many times as long a text may become, in characters, before it is cut into tokens and after they are joined.
_MOST_GROWTH: Final = 64
#: NFKC makes 18 characters of one Arabic ligature.
_GROWTH: Final = {"NFD": 4, "NFKD": 18, "NFC": 3, "NFKC": 18, "Lowercase": 3, "BertNormalizer": 4, "ByteLevel": 4, "Precompiled": 18}
_MOST_STEPS: Final = 64
_MOST_AROUND: Final = 1024
_LONGEST_WORD: Final = 1000
_LONGEST_PIECE: Final = 4096

_TEXTS: Final = (
    "The quick brown fox can't jump over 12,345 lazy dogs!\r\n\tif (x >= 10) { return [1, 2]; }\n\n",
    "今天天气很好。日本語のテキスト。한국어 Привет Γειά à la ﷺ 👩‍👩‍👧",
    "a" * 4096, " " * 4096, "\n" * 1024, "0" * 1024, "=" * 1024, "ab " * 1024, "中" * 1024, "\u0301" * 256,
)  # fmt: skip


class ApartContext(Protocol):
    """The part of a ``Context`` that runs a function apart, and keeps what passed."""

    @property
    def cache(self) -> Path: ...
    def apart(self, function: str, *arguments: Any, limits: ApartLimits | None = None) -> Any: ...


def check_at_first_sight(data: bytes, path: Path, context: ApartContext) -> None:
    """Check a tokenizer.json, read from ``path``, in a child process, unless one of the same content passed before.

    Raises:
        CheckpointError: it breaks the bounds, or the library cannot read it.
    """
    where, digest = str(path), hashlib.sha256(data).hexdigest()
    if isinstance(path, VirtualPath):
        digest = path.pseudonym(digest)
    known = Remembered(context.cache / f"tokenizers-{_VERSION}")
    if digest in known:
        return
    try:
        context.apart(f"{__name__}:probe", data, limits=_LIMITS)
    except ApartError as error:
        if error.kind in ("Killed", "Timeout", "MemoryError", "_OutOfBounds"):
            raise CheckpointError(f"{where} holds a tokenizer that was stopped: {error.sentence}; do not use this model.") from error
        if error.kind == "OSError":
            raise CheckpointError(f"{where} is not known, and {error.sentence}.") from error
        raise CheckpointError(f"{where} is damaged, or newer than the tokenizers library ({error.sentence[:120]}).") from error
    known.add(digest)


class _OutOfBounds(ValueError):
    """The file exceeds the limits of real tokenizers."""


def probe(data: bytes) -> None:
    """Raise where the file exceeds a limit, or the library fails on it."""
    _check_bounds(json.loads(data))
    from tokenizers import Tokenizer

    backend = Tokenizer.from_buffer(data)
    backend.no_truncation()
    backend.no_padding()
    for text in _TEXTS:
        try:
            tokens = backend.encode(text).ids
            size = len(backend.decode(tokens))
        except MemoryError:
            raise
        except BaseException:  # noqa: S112 - a vocabulary may lack the text; who encodes one like it is told then
            continue
        if len(tokens) > _MOST_AROUND + 4 * _MOST_GROWTH * len(text):
            raise _OutOfBounds(f"it makes {len(tokens)} tokens of {len(text)} characters")
        if size > _MOST_AROUND + _LONGEST_PIECE * len(tokens):
            raise _OutOfBounds("it makes far too long a text of its tokens")


def _check_bounds(settings: Any) -> None:
    if not isinstance(settings, dict):
        raise TypeError("it is no JSON object")
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        steps = list(_steps(settings.get(part)))
        if len(steps) > _MOST_STEPS:
            raise _OutOfBounds(f"its {part} has {len(steps)} steps")
        # Unicode's forms do not grow one upon the other: what is decomposed stays so. Replacements do.
        growth = max((_GROWTH.get(str(step.get("type")), 1) for step in steps), default=1.0)
        for step in steps:
            growth *= _growth(step)
            _check_patterns(step)
        growth *= _GROWTH["Precompiled"] ** max(0, sum(step.get("type") == "Precompiled" for step in steps) - 1)
        if growth > _MOST_GROWTH:
            raise _OutOfBounds(f"its {part} makes a text up to {growth:.0f} times as long")
        around = sum(_around(step) for step in steps)
        if around > _MOST_AROUND:
            raise _OutOfBounds(f"it puts {around} tokens around each text")
    _check_model(settings.get("model"))
    for token in settings.get("added_tokens") or ():
        if len(str(token.get("content", ""))) > _LONGEST_PIECE:
            raise _OutOfBounds("it has a token of too many characters")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a sequence, of sequences within too."""
    if not isinstance(part, dict):
        return
    inner = [each for key in ("normalizers", "pretokenizers", "decoders", "processors") for each in part.get(key) or ()]
    for each in inner:
        yield from _steps(each)
    if not inner:
        yield part


def _growth(step: dict[str, Any]) -> float:
    """How many times as long replacements make a text."""
    kind = step.get("type")
    if kind in ("Replace", "Prepend", "Strip"):
        content = str(step.get("content", step.get("prepend", "")))
        pattern = step.get("pattern")
        least = len(str(pattern.get("String", ""))) if isinstance(pattern, dict) and "String" in pattern else 1
        if len(content) > _LONGEST_WORD:
            raise _OutOfBounds("it puts a very long text in the place of others")
        return max(1.0, len(content) / max(1, least)) if kind == "Replace" else 1.0
    if kind == "Precompiled":
        _check_character_map(step.get("precompiled_charsmap"))
    return 1.0


def _check_character_map(text: Any) -> None:
    """SentencePiece's table of replacements: the size of a trie in four bytes, the trie, and the replacements, each with a zero behind."""
    if not isinstance(text, str) or not text:
        return
    data = base64.b64decode(text, validate=True)
    size = int.from_bytes(data[:4], "little")
    if size % 4 or 4 + size > len(data):
        raise _OutOfBounds("its table of characters claims to be longer than it is")
    replacements = data[4 + size :]
    # U+FDFA becomes 33 bytes.
    if max(map(len, replacements.split(b"\0"))) > 64:
        raise _OutOfBounds("its table of characters makes very long texts")


def _around(step: dict[str, Any]) -> int:
    table = step.get("special_tokens")
    ids = {name: len(entry.get("ids") or ()) for name, entry in table.items()} if isinstance(table, dict) else {}
    pieces = [each for key in ("single", "pair") for each in step.get(key) or () if isinstance(each, dict)]
    return sum(1 + ids.get(str(each.get("SpecialToken", {}).get("id")), 0) for each in pieces)


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        return
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > _LONGEST_WORD:
        raise _OutOfBounds(f"it takes words of up to {longest} characters apart")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(name) or "")) > _LONGEST_WORD:
            raise _OutOfBounds(f"its {name} has too many characters")
    if model.get("dropout"):
        raise _OutOfBounds("it drops merges at random, which is for training")
    vocabulary = model.get("vocab")
    pieces = vocabulary if isinstance(vocabulary, dict) else [each[0] for each in vocabulary or () if isinstance(each, list) and each]
    if any(len(str(piece)) > _LONGEST_PIECE for piece in pieces):
        raise _OutOfBounds("it has a piece of too many characters")


def _check_patterns(step: dict[str, Any]) -> None:
    pattern = step.get("pattern")
    text = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(text, str) and has_nested_repeats(text) and text not in _published():
        raise _OutOfBounds("one of its patterns repeats what repeats, which takes time without end")


def _published() -> set[str]:
    """Patterns that published models cut text with, some of which repeat what repeats and yet have one way to match only."""
    from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

    return {text for cut in PRE_TOKENIZERS.values() for text in _regexes(json.loads(cut.build().__getstate__()))}


def _regexes(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from _regexes(each)


def has_nested_repeats(pattern: str) -> bool:
    """Whether a regular expression repeats without bound a group in which something else repeats without bound: ``(a+)+``."""
    plain = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    # A class is one character; within it nothing repeats. Oniguruma's classes may hold classes.
    while (shorter := re.sub(r"\[[^\[\]]*\]", "x", plain)) != plain:
        plain = shorter
    repeats = re.compile(r"[*+]|\{\d*,\}")
    open_groups: list[bool] = []
    place = 0
    while place < len(plain):
        if plain[place] == "(":
            open_groups.append(False)
        elif plain[place] == ")" and open_groups:
            inner = open_groups.pop()
            repeated = repeats.match(plain, place + 1) is not None
            if inner and repeated:
                return True
            if open_groups and (inner or repeated):
                open_groups[-1] = True
        elif open_groups and repeats.match(plain, place):
            open_groups[-1] = True
        place += 1
    return False
