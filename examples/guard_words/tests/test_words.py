"""The guard passes the conformance kit, and a pipeline's prompts and answers go through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from guard_words import Options, Words

from llmasos_hookspecs import Allow, Block, Passage, Replace
from llmasos_hookspecs.testing import GuardConformance

OUTPUT = Passage(stage="output", model="m")


class TestConformance(GuardConformance):
    module = "guard_words"
    options: ClassVar[dict[str, Any]] = {
        "words": ("otter", "otter den", "river"),
        "replacement": "animal",
        "blocked": ("secret", "rivers of gold"),
    }
    allowed = ("A cat sleeps.", "ott", "secre")
    replaced = ("An otter.", "otter denotter", "riverriver", "an otter d", "rivers of ")
    blocked = ("A secret.", "otter den, rivers of gold", "secret")


def test_the_longest_word_counts() -> None:
    """``otter den`` is one word, and not ``otter`` with something after it."""
    guard = Words(Options(words=("otter", "otter den"), replacement="*"))
    assert guard.check("otter den, otter", OUTPUT) == Replace("*, *")
    assert guard.check("a cat", OUTPUT) == Allow()
    assert guard.hold == len("otter den") - 1


def test_what_stands_before_a_blocked_text_may_be_shown() -> None:
    """The verdict holds it, with its words replaced."""
    assert Words(Options(words=("otter",), replacement="*", blocked=("secret",))).check("otter secret x", OUTPUT) == Block(
        "it holds a text that is blocked here", "* "
    )


def test_a_pipeline_asks_it(tmp_path: Path) -> None:
    """Prompts that hold a blocked text are refused; answers are the same streamed and whole."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs import Blocked
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    plain = {"model": {"source": str(tmp_path / "model")}}
    with llmasos.Pipeline.from_config(plain) as pipeline:
        text = pipeline.model.generate_text("otters", max_new_tokens=12, ignore_eos=True)
    word = text[2:5]
    guard = {"use": "words", "words": [word], "replacement": "[word]", "blocked": ["a secret"]}
    with llmasos.Pipeline.from_config({**plain, "guard": [guard]}) as pipeline:
        with pytest.raises(Blocked, match=r'guard "words".*it holds a text that is blocked here'):
            pipeline.model.generate_text("Tell me a secret", max_new_tokens=12)
        whole = pipeline.model.generate_text("otters", max_new_tokens=12, ignore_eos=True)
        assert whole == text.replace(word, "[word]")
        assert "".join(pipeline.model.stream_text("otters", max_new_tokens=12, ignore_eos=True)) == whole
