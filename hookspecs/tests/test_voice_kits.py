"""``TranscriberConformance`` and ``SpeakerConformance`` pass right components and catch wrong ones, each by the test that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

_TEMPLATES = Path(__file__).parents[2] / "plugins/devtools/src/llmasos_devtools/new/templates"
TRANSCRIBER, SPEAKER = (
    (_TEMPLATES / kind / "src/@module@/__init__.py.template").read_text(encoding="utf-8").replace("@entry@", "morse")
    for kind in ("transcriber", "speaker")
)
HEARD = """
import pytest
options = {"unit": 0.02}
@pytest.fixture(scope="class")
@classmethod
def speech(cls):
    import sys
    import numpy as np
    module = sys.modules[cls.module]
    lengths = [(0, 4)]
    for word in "at sea".split():
        for letter in word:
            lengths += [each for sign in module.CODES[letter] for each in ((1, 3 if sign == "-" else 1), (0, 1))]
            lengths.append((0, 2))
        lengths.append((0, 4))
    return np.concatenate([np.full(160 * units, sounds, np.float32) for sounds, units in lengths]), "At sea!"
"""
SPOKEN = """
options = {"unit": 0.02}
short = "An ox."
long = "An ox on ice."
"""


Case = tuple[str, str, str]


def changed(source: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


def heard(*changes: tuple[str, str]) -> Case:
    return ("TranscriberConformance", changed(TRANSCRIBER, *changes), HEARD)


def spoken(*changes: tuple[str, str]) -> Case:
    return ("SpeakerConformance", changed(SPEAKER, *changes), SPOKEN)


_JOIN = "audio = np.concatenate([self._rest, audio])"
_END = "found = self._changed()\n        self._end_letter()"
_FIRST = "        for word in text.casefold().split():"

WRONG = {
    "hears other words": (heard(('> 2 * self._unit else "."', '> 4 * self._unit else "."')), "test_hears_its_example"),
    "forgets the last word": (heard((_END, "return []")), "test_hears_its_example"),
    "tells a word twice": (
        heard(("return found + self._end_word(self._frames)", "return 2 * (found + self._end_word(self._frames))")),
        "test_hears_its_example",
    ),
    "loses what is no whole frame": (
        heard(("self._rest = audio[whole:]", "pass")), "test_however_it_is_cut_the_words_are_the_same"
    ),
    "cannot take an empty piece": (
        heard((_JOIN, f"audio[0]\n        {_JOIN}")), "test_however_it_is_cut_the_words_are_the_same"
    ),
    "keeps the caller's array": (
        heard(
            ("def push(", "def read("),
            ("    def finish(self):\n",
             "    def push(self, audio):\n        self.all = [*getattr(self, 'all', []), audio]\n        return []\n\n"
             "    def finish(self):\n        for each in getattr(self, 'all', []): self.read(each)\n"),
        ),
        "test_the_array_may_be_used_again",
    ),
    "hears something in silence": (heard((_END, f"self._code = self._code or '.'\n        {_END}")), "test_hears_nothing_in_silence"),
    "shares one recording": (
        heard(("return Recording(", "self.one = getattr(self, 'one', None) or Recording("),
              ("Recording(self._options)\n\n\n@hook", "Recording(self._options)\n        return self.one\n\n\n@hook")),
        "test_recordings_do_not_mix",
    ),
    "tells times in frames": (heard(("end=frame * FRAME / RATE", "end=float(frame)")), "test_segments_have_words_and_times"),
    "puts blanks around words": (heard(("Segment(text=word", 'Segment(text=f" {word}"')), "test_segments_have_words_and_times"),
    "takes any language": (
        heard(('if language not in ("", *self.languages):', "if False:")), "test_refuses_languages_that_it_does_not_understand"
    ),
    "refuses its own language": (heard(('("", *self.languages)', '("",)')), "test_refuses_languages_that_it_does_not_understand"),
    "names its language": (heard(('languages = ("en",)', 'languages = ("English",)')), "test_says_what_it_takes"),
    "has no whole rate": (heard(("sample_rate = RATE", "sample_rate = RATE / 3")), "test_says_what_it_takes"),
    "speaks at no rate": (spoken(("sample_rate = RATE", "sample_rate = 0")), "test_says_what_it_makes"),
    "makes float64": (spoken((".astype(np.float32)", ".astype(np.float64)")), "test_makes_sound"),
    "makes 16-bit numbers": (spoken(("return (0.5 * on", "return (16384 * on")), "test_makes_sound"),
    "makes two channels": (spoken((".astype(np.float32)", ".astype(np.float32)[:, None]")), "test_makes_sound"),
    "is silent": (spoken(("return (0.5 * on", "return (0.0 * on")), "test_makes_sound"),
    "tells another rate than it makes": (spoken(("sample_rate = RATE", "sample_rate = 24 * RATE")), "test_makes_sound"),
    "says one word": (spoken(("text.casefold().split():", "text.casefold().split()[:1]:")), "test_a_longer_text_is_longer"),
    "uses one array again": (
        spoken(("yield self._sound([*lengths, (0, 4)])", "sound = self._sound([*lengths, (0, 4)])\n                self.one = "
                "getattr(self, 'one', np.zeros(99999, np.float32))\n                self.one[: len(sound)] = sound\n"
                "                yield self.one[: len(sound)]")),
        "test_pieces_are_arrays_of_their_own",
    ),
    "reads blanks aloud": (spoken(("text.casefold().split():", 'text.casefold().split() or ["e"]:')), "test_says_nothing_of_nothing"),
    "fails on text that cannot be encoded": (spoken(("text.casefold()", "text.encode().decode().casefold()")), "test_takes_every_text"),
    "fails on what has no code": (spoken(("if letter in CODES:", "if letter not in '.,':")), "test_takes_every_text"),
    "cannot be left": (
        spoken(("def speak(self, text):", "def speak(self, text):\n        return iter(list(self.all(text)))\n\n    def all(self, text):")),
        "test_can_be_left_early",
    ),
    "leaves a thread behind": (
        spoken((_FIRST, f"        import threading, time\n"
                f"        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n{_FIRST}")),
        "test_can_be_left_early",
    ),
    "mixes two texts": (
        spoken((_FIRST, "        self.text = text.casefold().split()\n        while self.text:\n            word = self.text.pop(0)")),
        "test_texts_do_not_mix",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [heard(), spoken()], ids=["transcriber", "speaker"])
def test_a_right_component_passes(run_conformance: Callable[..., Any], case: Case) -> None:
    """A receiver and a sender of Morse code pass every standard test."""
    kit, plugin, body = case
    outcomes = run_conformance(kit, plugin, body)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.collection_errors
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_component_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """One with one defect fails the test that is meant to find it."""
    (kit, plugin, body), caught_by = WRONG[defect]
    outcomes = run_conformance(kit, plugin, body, only=[caught_by])
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
