"""The guard: attacks on their way in, a canary on its way out."""

from __future__ import annotations

from typing import cast

from llmasos_guard_injection.canary import GAP, CanaryStream, fallbacks, letters
from llmasos_guard_injection.hidden import without_hidden
from llmasos_guard_injection.options import KINDS, Options
from llmasos_guard_injection.shapes import attack, control_tokens, document, plain
from llmasos_hookspecs import Allow, Block, Passage, Replace, Stage
from llmasos_hookspecs.guards import Verdict


class InjectionGuard:
    """Blocks prompt injection; thread-safe, and keeps nothing of a text.

    Attributes:
        stages: where it looks.
        hold: the longest form of the canary.
    """

    def __init__(self, options: Options) -> None:
        self.stages = cast("tuple[Stage, ...]", options.stages)
        self._options = options
        self._word = letters(options.canary)
        self._falls = fallbacks(self._word)
        self.hold = len(self._word) * (GAP + 1)

    def check(self, text: str, passage: Passage) -> Verdict:
        """The verdict on a whole text."""
        if passage.stage in ("output", "tool_call"):
            found = self.open(passage).push(text)
            return found if isinstance(found, Block) else Allow()
        # The system prompt is the operator's: it may speak of instructions, and it holds the canary.
        return Allow() if passage.role in ("system", "developer") else self._incoming(text)

    def open(self, passage: Passage) -> CanaryStream:
        """Begin an answer."""
        return CanaryStream(self._word, self._falls)

    def _incoming(self, text: str) -> Verdict:
        kinds = self._options.kinds
        seen = without_hidden(text)
        if "hidden_text" in kinds and seen != text and self._options.hidden == "block":
            return Block(KINDS["hidden_text"])
        compared = plain(text)
        for kind, holds in (("control_tokens", control_tokens), ("attacks", attack), ("documents", document)):
            if kind in kinds and holds(compared):
                return Block(KINDS[kind])
        return Replace(seen) if "hidden_text" in kinds and seen != text else Allow()
