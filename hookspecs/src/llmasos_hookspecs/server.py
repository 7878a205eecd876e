"""The server contract: a server translates a protocol (HTTP, say) to and from the runtime, which does all the rest.

A server holds no model, no queue, no tenant and no permission of its own: it gives what a client showed to ``Runtime.authenticate``, and
what the client asked to the runtime together with the principal that it got.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.access import Credentials, Permission, Principal, Remaining
from llmasos_hookspecs.administration import Administration
from llmasos_hookspecs.errors import LLMasOSError
from llmasos_hookspecs.task_events import TaskEvent
from llmasos_hookspecs.tasks import Prompt, PromptProgress, Ranked, TextKind, TokenLogprob, TokenPrompt


@attrs.frozen(kw_only=True)
class TextEvent:
    """A piece of an answer.

    Attributes:
        text: whole characters, to be shown at once; empty only where tokens without a text end the answer.
        tokens: ids of the tokens that it was made of; empty where a guard looked at the answer, whose text then need not be the model's.
        logprobs: of the tokens, where the request asked for them and ``tokens`` is not empty.
        index: which of the request's answers it belongs to, from 0.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0


@attrs.frozen(kw_only=True)
class ReasoningEvent:
    """A piece of the reasoning that precedes an answer, where the model's chat template marks it; without the marks.

    Attributes:
        text: whole characters, to be shown at once.
        tokens: ids of the tokens that it was made of; empty where a guard looked at the answer.
        index: of the answer.
    """

    text: str
    tokens: tuple[int, ...] = ()
    index: int = 0


@attrs.frozen(kw_only=True)
class ToolCallEvent:
    """A piece of a call of one of the request's tools. The pieces of one call follow one another.

    Attributes:
        call: number of the call in the answer, from 0.
        id: of the call, nine letters and digits (some templates take no others), in the first piece; empty in the others.
        name: of the tool, in the first piece; empty in the others.
        arguments: a piece of the JSON of the arguments; all pieces joined are an object, unless the answer was cut in the middle.
        index: of the answer.
    """

    call: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int = 0


@attrs.frozen(kw_only=True)
class UsageEvent:
    """What a request used, in tokens, all its answers together and the prompt counted once; comes once, before the finish.

    ``reasoning_tokens`` are part of ``generated_tokens``.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    reasoning_tokens: int = 0


@attrs.frozen(kw_only=True)
class FinishEvent:
    """An answer's end, where it did not fail.

    Attributes:
        reason: ``stop``, ``length``, ``cancelled``, or ``blocked`` where a guard blocked the rest.
        stop: the stop string that ended it.
        detail: where a guard blocked it, its reason.
        index: which of the request's answers it ends.
    """

    reason: Literal["stop", "length", "cancelled", "blocked"]
    stop: str | None = None
    detail: str = ""
    index: int = 0


@attrs.frozen(kw_only=True)
class ErrorEvent:
    """The last event of a request of which an answer failed after it had begun."""

    error: LLMasOSError


#: What an answer consists of.
PartEvent = TextEvent | ReasoningEvent | ToolCallEvent
#: What the stream of an answer consists of: its parts, then what it used and why it ended, or the error that ended it.
Event = PartEvent | UsageEvent | FinishEvent | ErrorEvent


@runtime_checkable
class Answer(Protocol):
    """A request's answers in progress: events of their parts, one usage event, and one finish event for each answer; or events of their
    parts and one error event.

    Iteration is possible once, with ``for`` on a thread or ``async for`` on an event loop (over the answer, or over its ``batches``), or
    by ``deliver`` in its place, and raises no error of the request. Leaving it early cancels the request, and frees its slot and its
    reservation within a step of the engine.

    Attributes:
        id: of the request.
        model: name of the model that answers.
        left: what the client has left of its limits, where the access control tells.
        progress: how much of the prompt is computed now; None while the request waits in the queue. It changes with each step of the
            engine that computes some of it, and no event tells so: a server that wants to tell its client looks at it now and then.
    """

    @property
    def id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def left(self) -> Remaining | None: ...
    @property
    def progress(self) -> PromptProgress | None: ...

    def __iter__(self) -> Iterator[Event]: ...
    def __aiter__(self) -> AsyncIterator[Event]: ...

    def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        """The events that are there at once together: of one step of the engine, or of several where the reader is slower. To be closed
        (``contextlib.aclosing``) where it is left early."""
        ...

    async def deliver(self, receive: Callable[[Sequence[Event]], Awaitable[None] | None], every: float = 0.0) -> None:
        """Have the event loop call ``receive`` with each batch in turn; returns after the last one. What ``receive`` returns is awaited
        before the next batch comes, which then holds all that came meanwhile; what it raises is raised here. To leave it early, cancel the
        task that awaits it.

        ``every``: seconds between two batches at least, where the engine is faster; the first two batches and the last come at once, and
        the tokens of a text that come together are one event. 0: a batch for each step of the engine, an event for each token that
        completes a character; ``math.inf``: nothing comes between the first batches and the last.

        For servers of many streams: no task is resumed for a batch, so that it takes two fifths of the processor time that ``batches``
        does."""
        ...

    def cancel(self) -> None:
        """The client has left: end the request. From any thread; does nothing once it has ended."""
        ...


@attrs.frozen(kw_only=True)
class ModelFacts:
    """A model that can be asked for.

    Attributes:
        name: in the pipeline; what clients write.
        source: reference that it was configured with.
        state: ``not loaded``, ``loading``, ``loaded``, ``unloading`` or ``closed``.
        context_length: tokens of prompt and answer together; None while it is not loaded.
        features: what can be asked of it: ``generate``, ``chat``, ``embed``, ``rank``, and ``image`` where its messages may hold images;
            the last three are known once it was loaded.
    """

    name: str
    source: str
    state: str
    context_length: int | None
    features: frozenset[str]


@attrs.frozen(kw_only=True)
class TaskFacts:
    """A task that can be run: ``inputs`` and ``output`` are JSON Schemas; ``streams``: it can answer piece by piece."""

    name: str
    summary: str
    inputs: Mapping[str, Any]
    output: Mapping[str, Any]
    streams: bool


class Runtime(Administration, Protocol):
    """What a server may ask for. Thread-safe.

    Each method checks first that the principal may do it, and records it; it raises ``NotAllowed`` where not. The tenant, the priority and
    the bounds of a request are the principal's.

    Methods block: ``generate`` while the model is being loaded or memory is short, ``run`` until the task is done. A server with an event
    loop awaits ``agenerate`` and ``arun``, iterates over ``stream_task`` and ``task_events``, calls ``recognise``, and calls the others on
    threads of its own.

    Attributes:
        draining: no new work is accepted.
        active: requests in progress.
        open: everybody may do everything, so that ``authenticate``, ``authorize`` and ``allows`` wait for nothing and need no thread.
    """

    @property
    def draining(self) -> bool: ...
    @property
    def active(self) -> int: ...
    @property
    def open(self) -> bool: ...

    def authenticate(self, credentials: Credentials) -> Principal:
        """Who the client is. Raises ``NotAuthenticated``."""
        ...

    def recognise(self, credentials: Credentials) -> Principal | None:
        """Who the client is, for an event loop: it waits for nothing. None: ``authenticate`` tells, on a thread."""
        ...

    def authorize(self, principal: Principal, permission: Permission, resource: str = "server") -> None:
        """Raises ``NotAllowed`` where the client may not do that to ``resource``: ``server``, ``model:NAME`` or ``task:NAME``. For what a
        server answers by itself; the other methods check for themselves."""
        ...

    def allows(self, principal: Principal, permission: Permission, resource: str = "server") -> bool:
        """Whether ``authorize`` would let the client do that; asked to show what it may do, so nothing is recorded."""
        ...

    def models(self, principal: Principal) -> Sequence[ModelFacts]:
        """The models that the client may use."""
        ...

    def generate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> Answer:
        """Answer chat messages, or continue a text; ``sampling`` as for ``TaskModel.generate``. None: the default model.

        Chat messages may come with ``tools``: functions in OpenAI's form, whose calls are events and follow the functions' JSON Schemas.
        ``tool_choice`` is ``"auto"``, ``"none"``, ``"required"``, names a function in OpenAI's form, or is its ``allowed_tools``;
        ``parallel_tool_calls`` false allows one call; ``constrain_tools`` false lets the model write what it likes.

        ``n`` answers share the prompt's computation. ``max_new_tokens="context"``: as many as there is room for. A client's request counts
        from its arrival.

        Raises:
            UnknownModel: there is no such model.
            RequestError: an unknown option, a bad value, or what is not the client's to choose (``tenant``, ``priority``, ``weight``).
            ContextLengthExceeded: the prompt does not fit.
            Rejected: the queue is full, or the server is being drained. ``QuotaExceeded``: the client has not so many tokens left.
            Blocked: a guard blocked the prompt.
        """
        ...

    async def agenerate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> Answer:
        """``generate`` for an event loop: while a model is being loaded or memory is short, it holds no thread.

        Cancelling the awaiting task gives the request up, and frees its reservation at once. ``Rejected`` is raised at once where as many
        requests wait as may: by the call itself, so that a server need not make a task for what is refused, or when it is awaited.
        """
        ...

    def embed(
        self,
        principal: Principal,
        texts: Sequence[str | TokenPrompt],
        *,
        model: str | None = None,
        kind: TextKind = "passage",
        dimensions: int | None = None,
    ) -> Sequence[Sequence[float]]:
        """A vector of length 1 for each text, or for its token ids; the first ``dimensions`` of it, if not None. ``kind``: what the texts
        are, for models that are told. Raises ``UnsupportedModel`` where the model has none, ``ContextLengthExceeded``, ``RequestError``."""
        ...

    def rank(
        self, principal: Principal, query: str, documents: Sequence[str], *, model: str | None = None, top: int | None = None
    ) -> Sequence[Ranked]:
        """The documents with their scores, the best answer to the query first; ``top``: so many, if not None. Raises as ``embed``."""
        ...

    def count_tokens(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> int:
        """Tokens of a prompt, chat template included; ``options`` such as ``tools``, as for ``generate``, or ``kind``: those that ``embed``
        encodes for a text of that kind, the model's own prompt before it included."""
        ...

    def tokenize(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> Sequence[int]:
        """The token ids of a prompt, chat template included; ``options`` as for ``count_tokens``. Raises ``RequestError`` as ``generate``
        does."""
        ...

    def detokenize(self, principal: Principal, tokens: Sequence[int], *, model: str | None = None) -> str:
        """The text of token ids, control tokens included. Raises ``RequestError`` for what is no id of the model."""
        ...

    def tasks(self, principal: Principal) -> Sequence[TaskFacts]:
        """The installed tasks that the client may run."""
        ...

    def run(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        """Run a task with inputs as plain data, and return its output as plain data."""
        ...

    async def arun(
        self,
        principal: Principal,
        task: str,
        inputs: Mapping[str, Any],
        *,
        model: str | None = None,
        written: Callable[[str, int], object] | None = None,
    ) -> Mapping[str, Any]:
        """``run`` for an event loop. Cancelling the awaiting task ends it: what models compute for it ends within a step.

        ``written`` is called on the event loop with each piece of text that a model writes for the task, and the count of its tokens. The
        text need not be a part of the output. ``Rejected`` is raised at once where as many tasks are in progress as may.
        """
        ...

    def stream_task(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[str, None]:
        """Run a task piece by piece, for an event loop: the pieces of its text as they come. Closing the generator
        (``contextlib.aclosing``) ends the task, as cancelling ``arun`` does. Raises ``RequestError`` for a task that answers as a whole."""
        ...

    def task_events(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        """Run any task, for an event loop: what it tells on its way as it happens, and as the last its output as plain data. A task that
        tells nothing has its output alone. Closed as ``stream_task``."""
        ...


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where a server listens. ``url`` is for people."""

    host: str
    port: int
    url: str = ""


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address as a URL has it, is this machine for itself: a server that listens there is reached by no
    other machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@runtime_checkable
class Server(Protocol):
    """A server. Its methods are called by one thread, in the order of their names here.

    A server may also have ``reload(options)``, which is called on any thread while it listens: use other options, and read the files that
    they name again, without ending a request. It raises ``ConfigError`` where they cannot change, and keeps what it has then.

    Attributes:
        endpoints: where it will listen, known before ``start``; from then on with the ports that it got. Core refuses to start a server
            beyond the loopback interface where the access control is open to all.
    """

    @property
    def endpoints(self) -> Sequence[Endpoint]: ...

    def start(self) -> None:
        """Listen; returns once clients can connect, and serves on threads of its own. Raises ``ResourceError`` where it cannot listen."""
        ...

    def drain(self, seconds: float) -> bool:
        """Accept no new work, and wait at most so long until what was accepted is answered; returns whether all was."""
        ...

    def stop(self) -> None:
        """End what is left, each answer with a reason, close the connections, and return when the port is free. Also after a ``start`` that
        failed; calling it again does nothing."""
        ...
