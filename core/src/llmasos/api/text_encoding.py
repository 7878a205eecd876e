"""What a model does that encodes texts: vectors of texts, and scores of documents for a query."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Ranked, RequestError, TextKind, TokenPrompt
from llmasos_hookspecs.guarding.edge import kind_of

if TYPE_CHECKING:
    from llmasos.compose.client import Charge
    from llmasos.compose.generation_params import GenerationParams
    from llmasos.compose.host import ModelHost
    from llmasos.compose.running_model import Running
    from llmasos.compose.serving import LoopCall, Sending
    from llmasos_engine.ticket import Ticket

Vectors = npt.NDArray[np.float32]
Window = TypeVar("Window", bound="str | TokenPrompt")

#: Texts, and characters of texts, that are queued at once: a long list is encoded in windows of so many, so that its tokens never are in
#: memory all together.
_WINDOW_TEXTS: Final = 1024
_WINDOW_CHARACTERS: Final = 1 << 20
#: Windows that are queued while an earlier one is being encoded, so that the encoder never waits for the tokenizer.
_AHEAD: Final = 2


class TextEncoding:
    """The methods of ``LanguageModel`` for encoders.

    Each raises ``UnsupportedModel`` for a model that generates text, ``RequestError`` for bad values, ``ContextLengthExceeded`` for a text
    that is too long (unless ``truncate`` is true), ``Blocked`` where a guard blocks a text, and ``ModelClosed`` after ``close()``.
    ``scheduling``: ``tenant``, and ``deadline`` in seconds from now.
    """

    _host: ModelHost
    _client: Any
    _params: Callable[[Mapping[str, Any]], GenerationParams]
    _shown: Callable[[Any, str], Any]
    _arrive: Callable[..., Charge | None]
    _audited: Callable[[Charge | None], contextlib.AbstractContextManager[None]]
    _sending: Callable[..., Any]

    def embed(
        self,
        texts: Sequence[str | TokenPrompt],
        kind: TextKind = "passage",
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        **scheduling: Any,
    ) -> Vectors:
        """A vector for each text: float32 [len(texts), dimensions].

        Args:
            texts: each not empty, or its token ids with all special tokens.
            kind: what the texts are: the ``query`` that is looked for, or the ``passage`` where it is. Models that were trained with a
                prompt for each get it.
            normalize: scale each vector to length 1, so that a product of two is their cosine.
            dimensions: keep so many of the first ones, for models that were trained to allow it; None: all.
            truncate: leave out the last tokens of a text that is longer than the model takes.
            scheduling: as for the class.
        """
        _check(texts, "texts", kind)
        found = self._in_windows(texts, lambda window, first: self._embedding(window, first, kind, dimensions, truncate, scheduling))
        return _finished(found, normalize, dimensions)

    async def aembed(
        self,
        texts: Sequence[str | TokenPrompt],
        kind: TextKind = "passage",
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        **scheduling: Any,
    ) -> Vectors:
        """``embed`` for an event loop."""
        _check(texts, "texts", kind)
        found = [
            await self._aresult(self._embedding, window, first, kind, dimensions, truncate, scheduling)
            for first, window in self._windows(texts)
        ]
        return _finished(found, normalize, dimensions)

    def rank(
        self, query: str, documents: Sequence[str], *, top: int | None = None, truncate: bool = False, **scheduling: Any
    ) -> list[Ranked]:
        """The documents, the best answer to the query first; of equal ones the earlier.

        Scores of a cross-encoder, which reads query and document together, lie between 0 and 1; those of an embedding model are cosines.
        ``top``: return so many; None: all.
        """
        _check(documents, "documents", top=top)
        found = self._in_windows(documents, lambda window, _: self._ranking(query, window, truncate, scheduling))
        counts = [len(window) for _, window in self._windows(documents)]
        return _ranked(documents, np.concatenate([_scores(*each) for each in zip(found, counts, strict=True)]), top)

    async def arank(
        self, query: str, documents: Sequence[str], *, top: int | None = None, truncate: bool = False, **scheduling: Any
    ) -> list[Ranked]:
        """``rank`` for an event loop."""
        _check(documents, "documents", top=top)
        found = [
            _scores(await self._aresult(self._ranking, query, window, truncate, scheduling), len(window))
            for _, window in self._windows(documents)
        ]
        return _ranked(documents, np.concatenate(found), top)

    def _in_windows(self, texts: Sequence[Window], sending: Callable[[Sequence[Window], int], Sending[Ticket[Vectors]]]) -> list[Vectors]:
        """The results of each window, of which a few are queued at once."""
        tickets: deque[Ticket[Vectors]] = deque()
        found: list[Vectors] = []
        try:
            for first, window in self._windows(texts):
                tickets.append(self._host.wait(sending(window, first)))
                if len(tickets) > _AHEAD:
                    found.append(tickets[0].result())
                    tickets.popleft()
            found.extend(ticket.result() for ticket in tickets)
        finally:
            for ticket in tickets:
                ticket.cancel()
        return found

    async def _aresult(self, sending: Callable[..., Sending[Ticket[Vectors]]], *arguments: Any) -> Vectors:
        ticket = await self._host.room.send(lambda: sending(*arguments), lambda ticket: ticket.cancel())
        return await ticket.aresult()

    def _windows(self, texts: Sequence[Window]) -> Iterator[tuple[int, Sequence[Window]]]:
        """Texts that are queued together, and the number of the first; a client's request is one, which is charged once."""
        if self._client is not None:
            yield 1, texts
            return
        first = size = 0
        for place, text in enumerate(texts):
            if place - first == _WINDOW_TEXTS or (place > first and size > _WINDOW_CHARACTERS):
                yield first + 1, texts[first:place]
                first, size = place, 0
            size += len(text.tokens if isinstance(text, TokenPrompt) else text)
        yield first + 1, texts[first:]

    def _embedding(
        self,
        texts: Sequence[str | TokenPrompt],
        first: int,
        kind: TextKind,
        dimensions: int | None,
        truncate: bool,
        scheduling: Mapping[str, Any],
    ) -> Sending[Ticket[Vectors]]:
        """The steps of queueing texts, the first of which is number ``first``."""

        def prepare(running: Running, params: GenerationParams, shown: Sequence[Any]) -> LoopCall[Ticket[Vectors]]:
            return running.embeddings(shown, kind, params, dimensions=dimensions, truncate=truncate, first=first)

        return self._queueing(texts, prepare, scheduling, "embed")

    def _ranking(self, query: str, documents: Sequence[str], truncate: bool, scheduling: Mapping[str, Any]) -> Sending[Ticket[Vectors]]:
        """The steps of queueing a query with documents; the result is the score of each."""

        def prepare(running: Running, params: GenerationParams, shown: Sequence[Any]) -> LoopCall[Ticket[Vectors]]:
            return running.rankings(shown[0], shown[1:], params, truncate=truncate)

        return self._queueing([query, *documents], prepare, scheduling, "rank")

    def _queueing(
        self,
        texts: Sequence[str | TokenPrompt],
        prepare: Callable[[Running, GenerationParams, Sequence[Any]], LoopCall[Ticket[Vectors]]],
        scheduling: Mapping[str, Any],
        action: str,
    ) -> Sending[Ticket[Vectors]]:
        with contextlib.ExitStack() as unsent:
            charge = self._arrive(unsent, action)
            params = self._params(scheduling)
            with self._audited(charge):
                shown = [self._shown(text, params.tenant) for text in texts]
            ticket: Ticket[Vectors] = yield from self._sending(lambda running: prepare(running, params, shown), charge)
            unsent.pop_all()
        return ticket


def _check(texts: Any, name: str, kind: str = "passage", top: Any = None) -> None:
    if isinstance(texts, str | Mapping | TokenPrompt) or not isinstance(texts, Sequence):
        raise RequestError(f"{name} is a {type(texts).__name__}, and it must be a list of texts; write [text] for one.", name)
    wrong = next((place for place, text in enumerate(texts) if not isinstance(text, str | TokenPrompt)), None)
    if wrong is not None:
        raise RequestError(f"Text {wrong + 1} is {kind_of(texts[wrong])}, and it must be a text.", name)
    if not texts:
        raise RequestError(f"{name} is empty; give at least one text.", name)
    if kind not in ("query", "passage"):
        raise RequestError(f'kind is {kind!r}, and it must be "query" or "passage".', "kind")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise RequestError(f"top is {top!r}, and it must be a whole number of at least 1.", "top")


def _finished(found: Sequence[Vectors], normalize: bool, dimensions: int | None) -> Vectors:
    vectors = found[0] if len(found) == 1 else np.concatenate(found)
    vectors = vectors if dimensions is None else np.ascontiguousarray(vectors[:, :dimensions])
    return unit(vectors) if normalize else vectors


def unit(vectors: Vectors) -> Vectors:
    """Vectors of length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)), dtype=np.float32)


def _scores(found: Vectors, count: int) -> npt.NDArray[np.floating[Any]]:
    """The scores of ``count`` documents: a cross-encoder gave a row for each, an embedding model one for the query before them."""
    if len(found) == count:
        return 1.0 / (1.0 + np.exp(-found[:, 0].astype(np.float64)))
    vectors = unit(found)
    return np.asarray(vectors[1:] @ vectors[0])


def _ranked(documents: Sequence[str], scores: npt.NDArray[np.floating[Any]], top: int | None) -> list[Ranked]:
    order = np.argsort(-scores, kind="stable")[:top]
    return [Ranked(index=int(place), text=documents[place], score=float(scores[place])) for place in order]
