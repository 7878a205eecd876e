"""A tokenizer.json that would take all memory or time is refused before the library that would take it reads it here."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos.compose.formats import formats
from llmasos.system import context
from llmasos_hookspecs import CheckpointError
from llmasos_hookspecs.testing.tokenizer import tokenizer_files
from llmasos_tokenizing import first_sight
from llmasos_tokenizing.first_sight import has_nested_repeats


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing was seen yet."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    def write(**changes: Any) -> Path:
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        (path / "tokenizer.json").write_text(json.dumps({**tokenizer_files()["tokenizer.json"], **changes}))
        return path

    return write


WORD_PIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {"[UNK]": 0, "a": 1}}
REPLACE = {"type": "Replace", "pattern": {"String": "七"}, "content": "七" * 50}
HOSTILE: dict[str, dict[str, Any]] = {
    "eight replacements, each of one character by fifty": {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 8}},
    "the same in the decoder": {"decoder": {"type": "Sequence", "decoders": [REPLACE] * 8}},
    "sequences in sequences": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [REPLACE] * 4}, REPLACE, REPLACE]}
    },
    "a pattern that matches between all characters": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 900},
    },
    "a template of many tokens": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}] * 2000 + [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [256] * 2000, "tokens": ["<|bos|>"] * 2000}},
        }
    },
    "words of a thousand million characters": {"model": {**WORD_PIECE, "max_input_chars_per_word": 10**9}},
    "a pattern that never ends": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    },
    "many steps": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}},
    "a very long piece": {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a" * 100_000, -1.0]]}},
    "a random one": {"model": {**tokenizer_files()["tokenizer.json"]["model"], "dropout": 0.5}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_without_bounds_is_refused_and_stays_refused(name: str, folder: Write, home: Path) -> None:
    path = folder(**HOSTILE[name])
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"holds a tokenizer that was stopped: .*; do not use this model"):
            formats().tokenizer(path)


def test_the_steps_of_published_tokenizers_pass(folder: Write, home: Path) -> None:
    """ALBERT's normalizers, which replace, decompose, lower and map characters one after the other."""
    quotes = [{"type": "Replace", "pattern": {"String": text}, "content": '"'} for text in ("``", "''")]
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    table = base64.b64encode((0).to_bytes(4, "little") + "صلى الله عليه وسلم".encode() + b"\0").decode()
    mapped = {"type": "Precompiled", "precompiled_charsmap": table}
    steps = [*quotes, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, spaces]
    tokenizer = formats().tokenizer(folder(normalizer={"type": "Sequence", "normalizers": steps}))
    assert tokenizer.decode(tokenizer.encode("A  ``b''")) == 'a "b"'
    first_sight._check_bounds({"normalizer": {"type": "Sequence", "normalizers": [*steps, mapped]}})
    with pytest.raises(ValueError, match="up to 324 times"):
        first_sight._check_bounds({"normalizer": {"type": "Sequence", "normalizers": [mapped, mapped]}})
    long = base64.b64encode((0).to_bytes(4, "little") + b"a" * 100 + b"\0").decode()
    with pytest.raises(ValueError, match="table of characters makes"):
        first_sight._check_bounds({"normalizer": {"type": "Precompiled", "precompiled_charsmap": long}})


@pytest.mark.parametrize("head", [b"\xfc\xff\xff\xff", b"\x01\0\0\0", b"\x08\0\0\0", b"\x04"])
def test_a_table_of_characters_that_is_cut_off_is_refused_unread(head: bytes) -> None:
    """The tokenizers library takes the memory that its first bytes ask for."""
    table = base64.b64encode(head + b"abc\0").decode()
    with pytest.raises(ValueError, match="table of characters claims"):
        first_sight._check_bounds({"normalizer": {"type": "Precompiled", "precompiled_charsmap": table}})


def test_a_tokenizer_is_tried_apart_once_and_remembered_by_its_content(folder: Write, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    run = context.run_apart
    monkeypatch.setattr(context, "run_apart", lambda function, data, **more: (tried.append(function), run(function, data, **more)))
    path = folder()
    assert formats().tokenizer(path).decode(formats().tokenizer(path).encode("hello")) == "hello"
    assert len(tried) == 1
    (kept,) = (home / "cache" / "checked").rglob("tokenizers-*/*")
    assert (kept.stat().st_mode & 0o777, kept.stat().st_size) == (0o600, 0)
    folder(version="1.0", truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0})
    formats().tokenizer(path)
    assert len(tried) == 2


def test_a_library_that_crashes_on_a_tokenizer_does_not_take_the_process_along(
    folder: Write, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = context.run_apart
    crash = b"__import__('os').abort()"
    monkeypatch.setattr(context, "run_apart", lambda _, __, **more: run("builtins:eval", crash, **more))
    with pytest.raises(CheckpointError, match="was stopped: it takes more time or memory than it may, or crashes the library"):
        formats().tokenizer(folder())


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a*b?)*", "((a+)b?)+", "(\\s*)+x", "(?:x|(?:y+))*", "([a-z]+){2,}", "(a{3,})*"])
def test_patterns_that_repeat_what_repeats_are_seen(pattern: str) -> None:
    assert has_nested_repeats(pattern)


def test_patterns_of_published_tokenizers_pass() -> None:
    """What every byte-level family cuts text with, and parts that look like nested repeats and are none."""
    patterns = first_sight._published()
    assert len(patterns) > 5
    for text in patterns:
        first_sight._check_patterns({"pattern": {"Regex": text}})
    more = [r"[(a+)]+", r"\(a+\)+", r"(?i:'s|'t)?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"(a+){2}", r"(?:ab)+c*"]
    assert [text for text in more if has_nested_repeats(text)] == []
