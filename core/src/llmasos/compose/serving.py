"""What serves a loaded model's requests: one engine loop, or a set of replicas that each have one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.compose.answer_forms import PLAIN, AnswerForm
from llmasos_engine.ticket import Ticket
from llmasos_engine.usage import Usage
from llmasos_hookspecs import Generation, Media, Request, Score
from llmasos_plugin_calls.task_scope import current_task
from llmasos_residency.lease import Lease
from llmasos_residency.residency import Residency
from llmasos_residency.tracked_model import TrackedModel

#: One ticket, or several.
R = TypeVar("R", bound="Ticket[Any] | list[Ticket[Any]]")
T = TypeVar("T")


@attrs.frozen
class Wanted:
    """A lease that a request needs before it can go on: its model in memory, with KV memory for ``tokens`` tokens."""

    model: TrackedModel
    tokens: int


#: The steps of sending a request: it yields what it waits for, gets the lease, and returns its tickets. What waits for the leases, a thread
#: or an event loop, is not its matter; an error at ``yield`` says that there will be none.
Sending = Generator[Wanted, Lease, T]


class Serving(Protocol):
    """Takes requests for one model and gives tickets for their answers."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together at most."""
        ...

    @property
    def room(self) -> int:
        """Tokens of prompt and answer that the context and the KV cache hold at most."""
        ...

    def check_queue(self, at_least: Callable[[], int]) -> None:
        """Raise ``Rejected`` where the queue is full for any request of so many tokens."""
        ...

    def media_length(self, media: Media) -> int:
        """How many positions the media takes in a prompt. Raises ``RequestError`` where the engine takes no such media."""
        ...

    def submit(self, request: Request) -> Ticket[Generation]:
        """Queue a generation."""
        ...

    def submit_many(self, request: Request, n: int) -> list[Ticket[Generation]]:
        """Queue ``n`` continuations of one prompt, which share its prefill."""
        ...

    def submit_score(self, request: Request, continuations: Sequence[Sequence[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of continuations."""
        ...

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computation of the logits at every position of the prompt."""
        ...

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        ...

    def usage(self) -> Usage:
        """Queue and KV cache figures."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """Each replica's process, state and backlog; empty where the model runs in this process."""
        ...

    def close(self) -> None:
        """Fail unfinished requests and free the engine. Calling it again does nothing."""
        ...


@attrs.frozen
class LoopCall(Generic[R]):
    """A call to what serves the model.

    Attributes:
        tokens: its requests need KV memory for so many at once to finish.
        cost: tokens that its client is charged at most: the prompt once, and all new tokens.
        send: queues its requests with what serves the model: a ``Serving``, or the loop of an encoder.
        form: of a generation's answers.
    """

    tokens: int
    cost: int
    send: Callable[[Any], R]
    form: AnswerForm = PLAIN


def waited(sending: Sending[T], residency: Residency) -> T:
    """Do the steps of sending a request, and wait for what they need on this thread. Raises ``Cancelled`` where its task was ended."""
    task = current_task()
    look = (lambda: None) if task is None else task.check
    lease: Lease | None = None
    try:
        wanted = next(sending)
        while True:
            try:
                lease = residency.acquire(wanted.model, wanted.tokens, look=look)
            except BaseException as error:
                wanted = sending.throw(error)
            else:
                wanted = sending.send(lease)
    except StopIteration as end:
        found: T = end.value
        return found
    except BaseException:  # Ctrl-C may strike between the lease and the steps, which then know nothing of it
        if lease is not None:
            lease.release()
        raise
