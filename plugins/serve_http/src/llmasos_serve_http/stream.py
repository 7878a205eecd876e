"""An answer on its way to a client, piece by piece."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from llmasos_hookspecs import Event, PartEvent
from llmasos_serve_http.asked import Rendering
from llmasos_serve_http.call import Call
from llmasos_serve_http.joint import Batched
from llmasos_serve_http.keeping import Keeper, begin_stream
from llmasos_serve_http.metrics import Measure
from llmasos_serve_http.outcome import Outcome
from llmasos_serve_http.prefill import EVERY, Prefill


class Stream:
    """Sends the events of an answer, those of each batch in one part, and before the first how much of the prompt is computed.

    The event loop calls ``take`` for each token, and no coroutine is resumed for it unless the client does not read.

    Attributes:
        outcome: how the answer ended.
    """

    def __init__(self, call: Call, rendering: Rendering, answer: Batched, measure: Measure, keeper: Keeper) -> None:
        self.outcome: Final = Outcome()
        self._call: Final = call
        self._rendering: Final = rendering
        self._model: Final = answer.model
        self._measure: Final = measure
        self._keeper: Final = keeper
        self._prefill: Final = Prefill(rendering, answer)
        self._headed = False
        self._last = b""
        if self._prefill.asked:
            keeper.tell(self._prefill.news, EVERY)

    def take(self, batch: Sequence[Event]) -> Awaitable[None] | None:
        """Send a batch; returns what is to be awaited before the next one, where there is something."""
        parts: list[bytes] = []
        for event in batch:
            if isinstance(event, PartEvent):
                parts.append(self._rendering.piece(event) if self._headed else self._first(event))
            else:
                self.outcome.take(event)
        part = b"".join(parts)
        if self.outcome.finishes:  # what comes with the end is sent with it
            self._last += part
            return None
        if not part:
            return None
        return self._keeper.begin(part) if self._call.started else self._begin(part)

    async def flush(self) -> None:
        """Send what was to come with the end."""
        part, self._last = self._last, b""
        if part:
            await self._begin(part)

    def end(self) -> bytes:
        """What ends the stream, which is to be sent."""
        end = self._last + self._rendering.end(self.outcome.usage, self.outcome.finishes)
        return end if self._headed else self._rendering.head(self._model) + end

    def _first(self, event: PartEvent) -> bytes:
        self._headed, self._keeper.news = True, None
        self._measure.piece()
        return self._prefill.news() + self._rendering.head(self._model) + self._rendering.piece(event)

    async def _begin(self, part: bytes) -> None:
        await begin_stream(self._call, self._rendering.media_type)
        await self._keeper.send(part)
