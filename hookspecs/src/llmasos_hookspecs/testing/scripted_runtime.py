"""A runtime with scripted answers, for tests of servers without core."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_hookspecs.access import Credentials, Permission, Principal, Remaining
from llmasos_hookspecs.errors import LLMasOSError, NotAllowed, NotAuthenticated, Rejected, RequestError, UnknownModel, UnsupportedModel
from llmasos_hookspecs.server import (
    ErrorEvent,
    Event,
    FinishEvent,
    ModelFacts,
    PartEvent,
    ReasoningEvent,
    TaskFacts,
    TextEvent,
    UsageEvent,
)
from llmasos_hookspecs.task_events import TaskEvent, TaskOutput
from llmasos_hookspecs.tasks import Prompt, PromptProgress, Ranked, TextKind, TokenPrompt
from llmasos_hookspecs.testing.scripted_administration import ScriptedAdministration

#: The key that the runtime knows.
KEY: Final = "the-key-of-the-kit"

#: A piece of an answer: text; another event; how much of the prompt is computed from then on; an error, which ends the answer; or a
#: ``threading.Event``, for which the answer waits.
Piece = str | PartEvent | FinishEvent | PromptProgress | LLMasOSError | threading.Event


class ScriptedAnswer:
    """An answer made of given pieces, each of one token, or several that are alike and come piece by piece in turn.

    Attributes:
        left: what the client has left of its limits.
        progress: how much of the prompt is computed.
        cancelled: is set once the client's leaving was noticed.
        ended: is set once the last event was read.
        taken: events that were read so far.
    """

    def __init__(self, number: int, model: str, pieces: Sequence[Piece], n: int = 1) -> None:
        self.id: Final = f"scripted-{number}"
        self.model: Final = model
        self.left: Remaining | None = None
        self.progress: PromptProgress | None = None
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self.taken = 0
        self._pieces = pieces
        self._n = n

    def cancel(self) -> None:
        if not self.ended.is_set():
            self.cancelled.set()

    def __iter__(self) -> Iterator[Event]:
        try:
            for batch in self._steps():
                yield from batch
            self.ended.set()
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import contextlib

        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        """The events of a piece together, of all answers that are alike."""
        import asyncio

        steps = self._steps()
        try:
            while (batch := await asyncio.to_thread(next, steps, None)) is not None:
                yield batch
            self.ended.set()
        finally:
            self.cancel()

    async def deliver(self, receive: Callable[[Sequence[Event]], Awaitable[None] | None], every: float = 0.0) -> None:
        """Each of ``batches`` in turn, whatever ``every`` is: it has no steps that could be too fast."""
        import contextlib

        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                if (rest := receive(batch)) is not None:
                    await rest

    def _steps(self) -> Iterator[Sequence[Event]]:
        sent = reasoning = 0
        finish = FinishEvent(reason="stop")
        for piece in self._pieces:
            if isinstance(piece, threading.Event):
                while not piece.wait(0.01) and not self.cancelled.is_set():
                    pass
                if self.cancelled.is_set():
                    break
            elif isinstance(piece, LLMasOSError):
                yield [ErrorEvent(error=piece)]
                return
            elif isinstance(piece, FinishEvent):
                finish = piece
            elif isinstance(piece, PromptProgress):
                self.progress = piece
            else:
                sent += 1
                reasoning += isinstance(piece, ReasoningEvent)
                self.taken = sent
                event = TextEvent(text=piece, tokens=(sent,)) if isinstance(piece, str) else piece
                yield [attrs.evolve(event, index=index) for index in range(self._n)]
        counts = {"generated_tokens": sent * self._n, "reasoning_tokens": reasoning * self._n}
        yield [UsageEvent(prompt_tokens=3, cached_tokens=1, **counts)]
        last = FinishEvent(reason="cancelled") if self.cancelled.is_set() else finish
        yield [attrs.evolve(last, index=index) for index in range(self._n)]


class ScriptedRuntime(ScriptedAdministration):
    """A ``Runtime`` that answers each prompt with the pieces in ``script``, by the text of the prompt's last message; others are echoed.

    Attributes:
        script: prompt -> pieces of the answer.
        prompts: the texts that it was asked, in order.
        given: the prompts whole.
        answers: what it answered with, in order.
        principals: on whose behalf.
        left: what clients are told that they have left.
        samplings: with which arguments beside the prompt.
        loading: where it is set to an event, requests wait for it, as they do for a model that is being loaded.
        open: credentials without a secret are accepted too, as core does for access ``open``.
        waiting: how many requests wait for it.
        draining: as core sets it; new requests are refused then.
        runs: of each task that an event loop ran: is set once it ended, also because nobody waited any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: dict[str, Sequence[Piece]] = {}
        self.prompts: list[str] = []
        self.given: list[Prompt | TokenPrompt] = []
        self.answers: list[ScriptedAnswer] = []
        self.principals: list[Principal] = []
        self.samplings: list[Mapping[str, Any]] = []
        self.loading: threading.Event | None = None
        self.waiting = 0
        self.open = True
        self.left: Remaining | None = None
        self.draining = False
        self.runs: list[threading.Event] = []
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        return sum(not (answer.ended.is_set() or answer.cancelled.is_set()) for answer in self.answers)

    def authenticate(self, credentials: Credentials) -> Principal:
        if credentials.secret == KEY:
            return Principal(name="kit", tenant="kit-tenant")
        if self.open and not credentials.secret:
            return Principal(name="local", tenant="local")
        raise NotAuthenticated("The key is not known; ask for another.")

    def recognise(self, credentials: Credentials) -> Principal | None:
        try:
            return self.authenticate(credentials)
        except NotAuthenticated:
            return None

    def authorize(self, principal: Principal, permission: Permission, resource: str = "server") -> None:
        self._may(principal, permission, resource)

    def allows(self, principal: Principal, permission: Permission, resource: str = "server") -> bool:
        self._check(principal)
        return permission in self.permissions

    def models(self, principal: Principal) -> Sequence[ModelFacts]:
        self._check(principal)
        features = frozenset({"generate", "chat"})
        return [ModelFacts(name="default", source="scripted", state="loaded", context_length=2048, features=features)]

    def generate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> ScriptedAnswer:
        self._check(principal)
        if self.draining:
            raise Rejected("The server is being stopped; send the request to another.", retry_after=1.0)
        if model not in (None, "default"):
            raise UnknownModel(f'There is no model "{model}"; there is default.')
        if self.loading is not None:
            self._wait(1)
            self.loading.wait()
            self._wait(-1)
        text = self._text(prompt)
        if not text:
            raise RequestError("The prompt is empty.")
        with self._lock:
            answer = ScriptedAnswer(len(self.answers), "default", self.script.get(text, [text]), n)
            answer.left = self.left
            self.prompts.append(text)
            self.given.append(prompt)
            self.principals.append(principal)
            self.samplings.append(sampling)
            self.answers.append(answer)
        return answer

    async def agenerate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> ScriptedAnswer:
        import asyncio

        self._check(principal)
        self._wait(1)
        try:
            while self.loading is not None and not self.loading.is_set():
                await asyncio.sleep(0.01)
        finally:
            self._wait(-1)
        return self.generate(principal, prompt, model=model, n=n, **sampling)

    def embed(
        self,
        principal: Principal,
        texts: Sequence[str | TokenPrompt],
        *,
        model: str | None = None,
        kind: TextKind = "passage",
        dimensions: int | None = None,
    ) -> Sequence[Sequence[float]]:
        self._check(principal)
        raise UnsupportedModel("The scripted model has no embeddings.")

    def rank(
        self, principal: Principal, query: str, documents: Sequence[str], *, model: str | None = None, top: int | None = None
    ) -> Sequence[Ranked]:
        self._check(principal)
        raise UnsupportedModel("The scripted model has no scores of documents.")

    def count_tokens(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> int:
        self._check(principal)
        return len(str(prompt).split())

    def tokenize(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> Sequence[int]:
        """The bytes of the text, as ids."""
        self._check(principal)
        return list(self._text(prompt).encode())

    def detokenize(self, principal: Principal, tokens: Sequence[int], *, model: str | None = None) -> str:
        self._check(principal)
        if not all(isinstance(token, int) and 0 <= token < 256 for token in tokens):
            raise RequestError("A token of the scripted model is a number below 256.", "tokens")
        return bytes(tokens).decode()

    def tasks(self, principal: Principal) -> Sequence[TaskFacts]:
        self._check(principal)
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        return [
            TaskFacts(name="repeat", summary="Repeat a text.", inputs=schema, output=schema, streams=True),
            TaskFacts(name="count", summary="Count a text's words.", inputs=schema, output={"type": "object"}, streams=False),
        ]

    def run(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        """``repeat`` gives the pieces of the script of its text joined, ``count`` their count."""
        pieces = list(self._pieces(principal, task, inputs))
        return {"text": "".join(pieces)} if task == "repeat" else {"words": len(pieces)}

    async def arun(
        self,
        principal: Principal,
        task: str,
        inputs: Mapping[str, Any],
        *,
        model: str | None = None,
        written: Callable[[str, int], object] | None = None,
    ) -> Mapping[str, Any]:
        import asyncio

        pieces: list[str] = []
        steps, ended = self._pieces(principal, task, inputs), threading.Event()
        self.runs.append(ended)
        try:
            while (piece := await asyncio.to_thread(next, steps, None)) is not None:
                pieces.append(piece)
                if written is not None:
                    written(piece, 1)
        finally:
            ended.set()
        return {"text": "".join(pieces)} if task == "repeat" else {"words": len(pieces)}

    async def stream_task(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[str, None]:
        import asyncio

        if task == "count":
            raise RequestError("The task count answers as a whole.", "stream")
        steps, ended = self._pieces(principal, task, inputs), threading.Event()
        self.runs.append(ended)
        try:
            while (piece := await asyncio.to_thread(next, steps, None)) is not None:
                yield piece
        finally:
            ended.set()

    async def task_events(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        yield TaskOutput(await self.arun(principal, task, inputs, model=model))

    def _pieces(self, principal: Principal, task: str, inputs: Mapping[str, Any]) -> Iterator[str]:
        """The texts of a script; it waits for its events, and raises its errors."""
        self._check(principal)
        if task not in ("repeat", "count") or set(inputs) != {"text"}:
            raise RequestError("There are only the tasks repeat and count, with a text.")

        def pieces() -> Iterator[str]:
            for piece in self.script.get(inputs["text"], [inputs["text"]]):
                if isinstance(piece, LLMasOSError):
                    raise piece
                if isinstance(piece, threading.Event):
                    piece.wait()
                elif isinstance(piece, str):
                    yield piece

        return pieces()

    @staticmethod
    def _text(prompt: Prompt | TokenPrompt) -> str:
        if isinstance(prompt, TokenPrompt):
            if not all(0 <= token < 256 for token in prompt.tokens):
                raise RequestError("A token of the scripted model is a number below 256.", "prompt")
            return bytes(prompt.tokens).decode(errors="replace")
        return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])

    def _wait(self, count: int) -> None:
        with self._lock:
            self.waiting += count

    @staticmethod
    def _check(principal: Principal) -> None:
        if not isinstance(principal, Principal):
            raise NotAllowed(f"{principal!r} is no principal; give what authenticate returned.")
