"""``GuardConformance`` passes a right guard and catches wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs.testing import guard

PLUGIN = (Path(__file__).parents[2] / "examples/guard_words/src/guard_words/__init__.py").read_text(encoding="utf-8")
BODY = """
options = {"words": ("otter", "otter den"), "replacement": "cat", "blocked": ("secret",)}
allowed = ("A dog.", "otte", "secre")
replaced = ("An otter.", "otter denotter")
blocked = ("A secret.", "otter secret")
"""


def changed(old: str, new: str) -> str:
    assert old in PLUGIN
    return PLUGIN.replace(old, new)


WRONG = {
    "keeps nothing back": (
        changed("if not final and (undecided", "if False and (undecided"), "test_streams_equal_the_whole_for_every_split"
    ),
    "loses what it kept back": (changed("return self._read(self._kept, final=True)", 'return ""'), "test_does_what_its_examples_say"),
    "loses what a stream kept back": (
        changed("return self._read(self._kept, final=True)", 'return self._read(self._kept, final=True) if self.whole else ""').replace(
            "        self._kept = \"\"", "        self._kept, self.whole = \"\", False").replace(
            "first = scan.push(text)", "scan.whole = True; first = scan.push(text)"),
        "test_streams_equal_the_whole_for_every_split",
    ),
    "blocks in streams only": (
        changed("first = scan.push(text)", 'first = scan.push(text.replace("secret", ""))'), "test_does_what_its_examples_say"
    ),
    "releases more of a whole answer than of a stream": (
        changed("return last if last is first else", "return Block(last.reason) if last is first else"),
        "test_streams_equal_the_whole_for_every_split",
    ),
    "keeps back more than it says": (changed("default=1) - 1", "default=1) - 6"), "test_keeps_back_no_more_than_it_says"),
    "shares one stream": (
        changed("self.stages = options.stages", "self.stages, self.one = options.stages, Scan(options)").replace(
            "    def open(self, passage):\n        return Scan(self._options)", "    def open(self, passage):\n        return self.one"),
        "test_streams_do_not_mix",
    ),
    "remembers what it saw": (
        changed(
            "scan = Scan(self._options)",
            "self.seen = getattr(self, 'seen', 0) + 1\n        scan = Scan(self._options)\n        if self.seen % 7 == 0: return Allow()",
        ),
        "test_remembers_nothing",
    ),
    "keeps for all conversations what one told it": (
        changed(
            "scan = Scan(self._options)",
            "self.told = getattr(self, 'told', 0) + (passage.conversation is not None)\n        scan = Scan(self._options)\n"
            "        if self.told > 3: return Allow()",
        ),
        "test_conversations_are_apart",
    ),
    "streams otherwise in a conversation": (
        changed("    def open(self, passage):\n        return Scan(self._options)",
                "    def open(self, passage):\n        return Scan(attrs.evolve(self._options, replacement=str(passage.conversation)))"),
        "test_conversations_are_apart",
    ),
    "replaces everything": (changed("Allow() if first + last == text else ", ""), "test_takes_every_text"),
    "returns what is no verdict": (changed("Allow() if first + last == text", "True if first + last == text"), "test_takes_every_text"),
    "fails on text that cannot be encoded": (changed("scan = Scan(", "text.encode(); scan = Scan("), "test_takes_every_text"),
    "repeats what it blocks": (
        changed('"it holds a text that is blocked here"', 'f"it holds {text}"'), "test_says_why_without_repeating_it"
    ),
    "takes the square of the time": (
        changed("            if found:\n", "            if found:\n                for _ in range(20): text = text[:stop] + text[stop:]\n"),
        "test_is_quick_on_long_texts",
    ),
    "looks at a stage that there is not": (changed("self.stages = options.stages", 'self.stages = ("prompt",)'), "test_names_its_stages"),
}  # fmt: skip


def test_a_right_guard_passes(run_conformance: Callable[..., Any]) -> None:
    """A guard that replaces, blocks and streams passes every standard test."""
    outcomes = run_conformance("GuardConformance", PLUGIN, BODY)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


def test_a_guard_need_not_stream(run_conformance: Callable[..., Any]) -> None:
    """Without ``open`` the tests of streams are skipped."""
    outcomes = run_conformance("GuardConformance", changed("    def open(self, passage):", "    def opened(self, passage):"), BODY)
    assert not outcomes.failed, outcomes.messages
    assert "test_streams_equal_the_whole_for_every_split" in outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_guard_is_caught(run_conformance: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    """A guard with one defect fails the test that is meant to find it."""
    monkeypatch.setattr(guard, "SECONDS", 3.0)
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("GuardConformance", source, BODY, only=[caught_by])
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
