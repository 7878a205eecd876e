"""Tells the client of a stream how much of its prompt is computed."""

from __future__ import annotations

from typing import Final

from llmasos_hookspecs import PromptProgress
from llmasos_serve_http.asked import Rendering
from llmasos_serve_http.joint import Batched

#: Seconds between two looks at how much is computed.
EVERY: Final = 0.25


class Prefill:
    """The parts of a stream that tell how much of an answer's prompt is computed: none where its client did not ask."""

    def __init__(self, rendering: Rendering, answer: Batched) -> None:
        self._rendering: Final = rendering
        self._answer: Final = answer
        self._told: PromptProgress | None = None

    @property
    def asked(self) -> bool:
        """Whether the client wants to be told."""
        return self._rendering.progress is not None

    def news(self) -> bytes:
        """What is computed now; empty where that was told already, and while the request is queued."""
        progress = self._answer.progress
        if self._rendering.progress is None or progress is None or progress == self._told:
            return b""
        self._told = progress
        return self._rendering.progress(self._answer.model, progress)
