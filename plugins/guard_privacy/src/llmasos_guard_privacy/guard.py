"""The guard: whole texts, streams, and the arguments of calls of tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from llmasos_guard_privacy.detector import Detector
from llmasos_guard_privacy.detectors import detectors
from llmasos_guard_privacy.options import Options
from llmasos_guard_privacy.placeholders import Form, Placeholders, Reversible, Written
from llmasos_guard_privacy.scan import Replaced, Scan
from llmasos_hookspecs import Allow, Block, Passage, Replace, Stage
from llmasos_hookspecs.guards import Verdict

#: Deeper arguments of a call are scanned as text.
_DEPTH = 50


#: Opens the scan of a text; what stands before the text, and is not released.
_Opens = Callable[[str], Scan | Reversible]


class PrivacyGuard:
    """Redacts or blocks personal data; thread-safe, and keeps nothing of a text but, in its conversation, the values of placeholders.

    Attributes:
        stages: where it looks.
        hold: the longest data, so what a stream keeps back at most; of most texts it keeps back a word.
    """

    def __init__(self, options: Options) -> None:
        self.stages = cast("tuple[Stage, ...]", options.stages)
        self._options = options
        self._detectors: Sequence[Detector] = [each for each in detectors(options.regions) if each.kind in options.kinds]
        self._form = Form(options.placeholder) if options.action == "placeholders" else None
        self.hold = max(each.limit for each in self._detectors) + (0 if self._form is None else self._form.longest)

    def check(self, text: str, passage: Passage) -> Verdict:
        """The verdict on a whole text."""
        if self._form is not None and not passage.role and self._leaves_alone(passage.stage):
            return Allow()
        opens = self._opens(passage)
        found = self._arguments(text, opens) if passage.stage == "tool_call" else None
        if found is None:
            found = _scanned(text, opens(""))
        if isinstance(found, Block):
            return found
        return Allow() if found == text else Replace(found)

    def open(self, passage: Passage) -> Scan | Reversible:
        """Begin an answer."""
        return self._opens(passage)("")

    def _leaves_alone(self, stage: Stage) -> bool:
        """Whether what goes to a tool or comes from it passes as it is: the model sees it in a message, and there it is replaced."""
        return stage == "tool_result" or (stage == "tool_call" and self._options.tools == "value")

    def _opens(self, passage: Passage) -> _Opens:
        """How a text that passes there is scanned."""
        if self._options.action == "block":
            return partial(Scan, self._detectors, None)
        new = partial(Placeholders, self._options.placeholder)
        if self._form is None:
            return partial(Scan, self._detectors, new().of)
        placeholders = new() if passage.conversation is None else passage.conversation.kept(self, new)
        data, written = _replaced(passage, placeholders)
        return partial(_open_reversible, self._form, self._detectors, data, written)

    def _arguments(self, text: str, opens: _Opens) -> str | Block | None:
        """The arguments of a call with the values that pass; None where the text is no JSON that can be walked.

        A number that is personal data becomes a string, so that the arguments stay JSON.
        """
        try:
            value = json.loads(text)
            found = _value(json.loads(text, parse_float=_Number, parse_int=_Number), "", opens, _DEPTH)
        except (ValueError, RecursionError):
            return None
        except _Blocked as blocked:
            return Block(blocked.reason)
        return text if found == value else json.dumps(found, ensure_ascii=False)


def _replaced(passage: Passage, placeholders: Placeholders) -> tuple[Replaced, Written]:
    """What takes the place of data in a conversation, and what that of the placeholders that a text holds already."""
    if passage.stage == "output":
        return placeholders.answer(), placeholders.value
    if not passage.role and passage.stage == "tool_call":
        return placeholders.known, _as_written
    return placeholders.of, placeholders.of if passage.stage == "input" else placeholders.own


def _as_written(_kind: str, placeholder: str) -> str:
    return placeholder


def _open_reversible(form: Form, detectors: Sequence[Detector], data: Replaced, written: Written, before: str) -> Reversible:
    return Reversible(form, Scan(detectors, data, before), written)


def _scanned(text: str, scan: Scan | Reversible) -> str | Block:
    """What a scan makes of a whole text."""
    first = scan.push(text)
    if isinstance(first, Block):
        return first
    last = scan.end()
    return Block(last.reason, first + last.text) if isinstance(last, Block) else first + last


def _value(value: Any, label: str, opens: _Opens, depth: int) -> Any:
    """A value of a call's arguments with what passes of its texts and numbers; ``label``: what names it."""
    if depth == 0:
        raise RecursionError
    if isinstance(value, dict):
        return {_text(key, "", opens): _value(each, f"{key}: ", opens, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_value(each, label, opens, depth - 1) for each in value]
    return _text(value, label, opens) if isinstance(value, str) else value


def _text(text: str, before: str, opens: _Opens) -> Any:
    found = _scanned(text, opens(before))
    if isinstance(found, Block):
        raise _Blocked(found.reason)
    return json.loads(text) if isinstance(text, _Number) and found == text else found


class _Number(str):
    """A number of the arguments as it is written."""


class _Blocked(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
