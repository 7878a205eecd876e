"""The guard: judges a text segment by segment, each with what stands before it."""

from __future__ import annotations

from typing import Final, Protocol, cast

from llmasos_guard_topics.options import THRESHOLDS, Options
from llmasos_guard_topics.segments import segment_end
from llmasos_hookspecs import Allow, Block, Passage, Stage
from llmasos_hookspecs.guards import Verdict

DENIED: Final = "it is about a topic that is not allowed"
OTHER: Final = "it is about none of the topics that are allowed"


class Judge(Protocol):
    """Tells what a text is about; thread-safe."""

    def scores(self, text: str) -> list[float]:
        """A score for each topic, those of ``deny`` first, then those of ``allow``; the same for the same text."""
        ...


class TopicGuard:
    """Blocks texts by their topics; thread-safe, and keeps nothing of a text.

    Attributes:
        stages: where it looks.
        hold: characters of the segment that is not complete.
    """

    def __init__(self, options: Options, judge: Judge) -> None:
        self.stages = cast("tuple[Stage, ...]", options.stages)
        self.hold = options.window
        self._options = options
        self._judge = judge
        self._threshold = THRESHOLDS[options.by] if options.threshold is None else options.threshold

    def check(self, text: str, passage: Passage) -> Verdict:
        """The verdict on a whole text: that of its stream."""
        stream = self.open(passage)
        released = stream.push(text) if text else ""
        if isinstance(released, Block):
            return released
        last = stream.end()
        return Block(last.reason, released + last.text) if isinstance(last, Block) else Allow()

    def open(self, passage: Passage) -> TopicStream:
        """Begin an answer."""
        return TopicStream(self, self._options.window)

    def reason(self, before: str, segment: str) -> str | None:
        """Why a segment behind ``before`` is blocked; None where it passes."""
        options = self._options
        if not any(letter.isalnum() for letter in segment):
            return None
        text = before + segment
        if not options.deny and _length(text) < options.least:
            return None
        scores = self._judge.scores(text.encode("utf-8", "replace").decode())
        denied, allowed = scores[: len(options.deny)], scores[len(options.deny) :]
        if any(score >= self._threshold for score in denied):
            return DENIED
        if allowed and _length(text) >= options.least and max(allowed) < self._threshold:
            return OTHER
        return None


class TopicStream:
    """One answer. Kept back is the segment that is not complete."""

    def __init__(self, guard: TopicGuard, window: int) -> None:
        self._guard: Final = guard
        self._window: Final = window
        self._before = ""
        self._kept = ""

    def push(self, piece: str) -> str | Block:
        """The segments that are complete and pass."""
        self._kept += piece
        return self._passed(last=False)

    def end(self) -> str | Block:
        """The rest, where it passes."""
        return self._passed(last=True)

    def _passed(self, *, last: bool) -> str | Block:
        released: list[str] = []
        place = 0
        while (end := segment_end(self._kept[place : place + self._window], self._window, last=last)) is not None:
            segment = self._kept[place : place + end]
            reason = self._guard.reason(self._before, segment)
            if reason is not None:
                return Block(reason, "".join(released))
            released.append(segment)
            self._before = (self._before + segment)[-self._window :]
            place += end
        self._kept = self._kept[place:]
        return "".join(released)


def _length(text: str) -> int:
    """Letters and digits of a text; a sign that is a syllable or a word counts as three."""
    if text.isascii():
        return sum(map(str.isalnum, text))
    return sum(3 if letter >= "\u2e80" else 1 for letter in text if letter.isalnum())
