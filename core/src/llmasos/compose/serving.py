"""What serves a loaded model's requests: one engine loop, or a set of replicas that each have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.compose.answer_forms import PLAIN, AnswerForm
from llmasos.engine.ticket import Ticket
from llmasos.engine.usage import Usage
from llmasos_hookspecs import Generation, Request, Score

#: One ticket, or several.
R = TypeVar("R", bound="Ticket[Any] | list[Ticket[Any]]")


class Serving(Protocol):
    """Takes requests for one model and gives tickets for their answers."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together at most."""
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
    """A call to what serves the model: ``send`` queues its requests, which need KV memory for ``tokens`` tokens at once to finish.
    ``form``: how a generation's answer is to be read."""

    tokens: int
    send: Callable[[Serving], R]
    form: AnswerForm = PLAIN
