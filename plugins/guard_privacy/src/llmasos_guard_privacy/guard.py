"""The guard: whole texts, streams, and the arguments of calls of tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from llmasos_guard_privacy.detector import Detector
from llmasos_guard_privacy.detectors import detectors
from llmasos_guard_privacy.options import Options
from llmasos_guard_privacy.scan import Placeholders, Scan
from llmasos_hookspecs import Allow, Block, Passage, Replace, Stage
from llmasos_hookspecs.guards import Verdict

#: Deeper arguments of a call are scanned as text.
_DEPTH = 50


class PrivacyGuard:
    """Redacts or blocks personal data; thread-safe, and keeps nothing of a text.

    Attributes:
        stages: where it looks.
        hold: the longest data, so what a stream keeps back at most; of most texts it keeps back a word.
    """

    def __init__(self, options: Options) -> None:
        self.stages = cast("tuple[Stage, ...]", options.stages)
        self._form = options.placeholder if options.action == "redact" else None
        self._detectors: Sequence[Detector] = [each for each in detectors(options.regions) if each.kind in options.kinds]
        self.hold = max(each.limit for each in self._detectors)

    def check(self, text: str, passage: Passage) -> Verdict:
        """The verdict on a whole text."""
        placeholders = self._placeholders()
        found = self._arguments(text, placeholders) if passage.stage == "tool_call" else None
        if found is None:
            found = self._scanned(text, placeholders)
        if isinstance(found, Block):
            return found
        return Allow() if found == text else Replace(found)

    def open(self, passage: Passage) -> Scan:
        """Begin an answer."""
        return Scan(self._detectors, self._placeholders())

    def _placeholders(self) -> Placeholders | None:
        return None if self._form is None else Placeholders(self._form)

    def _scanned(self, text: str, placeholders: Placeholders | None, before: str = "") -> str | Block:
        scan = Scan(self._detectors, placeholders, before)
        first = scan.push(text)
        if isinstance(first, Block):
            return first
        last = scan.end()
        return Block(last.reason, first + last.text) if isinstance(last, Block) else first + last

    def _arguments(self, text: str, placeholders: Placeholders | None) -> str | Block | None:
        """The arguments of a call with the values that pass; None where the text is no JSON that can be walked.

        A number that is personal data becomes a string, so that the arguments stay JSON.
        """
        try:
            value = json.loads(text)
            found = self._value(json.loads(text, parse_float=_Number, parse_int=_Number), "", placeholders, _DEPTH)
        except (ValueError, RecursionError):
            return None
        except _Blocked as blocked:
            return Block(blocked.reason)
        return text if found == value else json.dumps(found, ensure_ascii=False)

    def _value(self, value: Any, label: str, placeholders: Placeholders | None, depth: int) -> Any:
        if depth == 0:
            raise RecursionError
        if isinstance(value, dict):
            return {
                self._text(key, "", placeholders): self._value(each, f"{key}: ", placeholders, depth - 1) for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._value(each, label, placeholders, depth - 1) for each in value]
        return self._text(value, label, placeholders) if isinstance(value, str) else value

    def _text(self, text: str, before: str, placeholders: Placeholders | None) -> Any:
        found = self._scanned(text, placeholders, before)
        if isinstance(found, Block):
            raise _Blocked(found.reason)
        return json.loads(text) if isinstance(text, _Number) and found == text else found


class _Number(str):
    """A number of the arguments as it is written."""


class _Blocked(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
