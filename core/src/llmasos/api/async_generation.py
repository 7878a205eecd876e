"""A model for event loops: what ``LanguageModel`` does, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from llmasos.api.checks import check_messages, check_prompts
from llmasos.api.options import GenerationOptions, ObjectOptions, lists_options
from llmasos.api.part_events import Queued
from llmasos_hookspecs import Generation, Prompt, Score, TokenPrompt

if TYPE_CHECKING:
    from llmasos.compose.host import ModelHost
    from llmasos.compose.running_model import Running
    from llmasos.compose.serving import LoopCall, Sending
    from llmasos.compose.task_runs import TaskRuns
    from llmasos_engine.ticket import Ticket

T = TypeVar("T")


class AsyncGeneration:
    """The methods of ``LanguageModel`` for event loops.

    Cancelling the awaiting task cancels the request; its slot is free within a step.
    """

    _host: ModelHost
    _runs: TaskRuns
    _object: Callable[[Any, Generation], Any]
    _logits: Callable[..., Callable[[Running], LoopCall[Ticket[npt.NDArray[np.float32]]]]]
    _scoring: Callable[..., Sending[Ticket[list[Score]]]]
    generating: Callable[..., Sending[Queued]]
    run: Callable[..., Any]

    @lists_options
    async def agenerate_text(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> str:
        """``generate_text`` for an event loop."""
        return (await self.agenerate(prompt, **sampling)).text

    @lists_options
    async def agenerate(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> Generation:
        """``generate`` for an event loop."""
        return await (await self._asubmit(prompt, sampling)).aresult()

    @lists_options
    async def astream_text(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> AsyncIterator[str]:
        """``stream_text`` for an event loop."""
        async for piece in await self._asubmit(prompt, sampling):
            yield piece

    @lists_options
    async def achat(self, messages: Sequence[Mapping[str, Any]], **sampling: Unpack[GenerationOptions]) -> str:
        """``chat`` for an event loop."""
        check_messages(messages)
        return (await self.agenerate(messages, **sampling)).text

    @lists_options
    async def astream_chat(self, messages: Sequence[Mapping[str, Any]], **sampling: Unpack[GenerationOptions]) -> AsyncIterator[str]:
        """``stream_chat`` for an event loop."""
        check_messages(messages)
        async for piece in await self._asubmit(messages, sampling):
            yield piece

    @lists_options
    async def agenerate_object(self, prompt: Prompt, schema: type[T] | Mapping[str, Any], **sampling: Unpack[ObjectOptions]) -> T | Any:
        """``generate_object`` for an event loop."""
        return self._object(schema, await (await self._asubmit(prompt, {**sampling, "schema": schema})).aresult())

    @lists_options
    async def abatch(self, prompts: Sequence[Prompt], **sampling: Unpack[GenerationOptions]) -> list[Generation]:
        """``batch`` for an event loop."""
        check_prompts(prompts)
        tickets: list[Ticket[Generation]] = []
        try:
            for prompt in prompts:
                tickets.append(await self._asubmit(prompt, sampling))  # noqa: PERF401 - those before one that is refused are cancelled
            return [await ticket.aresult() for ticket in tickets]
        finally:
            cancel_all(tickets)

    async def alogits(self, tokens: Sequence[int], source: Prompt | TokenPrompt | None = None) -> npt.NDArray[np.float32]:
        """``logits`` for an event loop."""
        ticket = await self._host.room.send(lambda: self._host.sending(self._logits(tokens, source)), _cancel)
        return await ticket.aresult()

    async def ascore(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """``score`` for an event loop."""
        return await (await self._host.room.send(lambda: self._scoring(prompt, continuations, {}), _cancel)).aresult()

    async def arun(self, task: str, **inputs: Any) -> Any:
        """``run`` for an event loop. Cancelling the awaiting task ends it: its requests to models end within a step."""
        return await self._runs.run(lambda: self.run(task, **inputs))

    async def _asubmit(self, prompt: Prompt, sampling: Mapping[str, Any]) -> Ticket[Generation]:
        """Queue a generation. It holds no thread while it waits for the model or for memory, and nothing once its task was cancelled."""
        queued = await self._host.room.send(lambda: self.generating(prompt, 1, sampling), Queued.cancel)
        return queued.answers[0]


def cancel_all(tickets: Sequence[Ticket[Generation]]) -> None:
    for ticket in tickets:
        ticket.cancel()


def _cancel(ticket: Ticket[Any]) -> None:
    ticket.cancel()
