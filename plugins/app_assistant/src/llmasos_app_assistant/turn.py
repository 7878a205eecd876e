"""One turn: the model calls tools until it can answer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

import attrs

from llmasos_app_assistant.calling import AskedCall, ReadyCall, Result, checked, cut, passed, run_calls
from llmasos_app_assistant.listeners import CallEvent
from llmasos_app_assistant.policy import decide
from llmasos_app_assistant.tools.tool import Scope, Tool, ToolError
from llmasos_app_assistant.turn_parts import Ended, Finish, MadeCall, Reply, TurnParts
from llmasos_hookspecs import Cancelled, ContextLengthExceeded, FinishEvent, RequestError, TextEvent, ToolCallEvent, UsageEvent
from llmasos_task_kit.prompting import turn_stops

_log = logging.getLogger("llmasos.assist")

#: Tokens that a step may write at least, where it may write so many at all.
_LEAST: Final = 16
#: What stands in the place of results that do not fit any more, the oldest first.
_LEFT_OUT: Final = "[This result was left out, because the conversation grew too long.]"
_INTERRUPTED: Final = (
    "the assistant was interrupted during this call. Whether the call did what it was asked is not known, and it is not run again by "
    "itself."
)


@attrs.frozen
class _Refused:
    """Why a call is not run, and its arguments as the model is shown them from then on."""

    reason: str
    arguments: Mapping[str, Any]


class Turn:
    """A turn in progress, used by one thread.

    Attributes:
        ended: how it ended, once it has.
    """

    def __init__(self, parts: TurnParts) -> None:
        self.ended: Ended | None = None
        self._parts = parts
        self._tools = {tool.name: tool for tool in parts.tools}
        self._described = [tool.described() for tool in parts.tools]
        self._deadline = time.monotonic() + parts.bounds.seconds
        self._replies: list[Reply] = []
        self._results: dict[str, Result] = {}
        self._begun: set[str] = set()
        self._arguments: dict[str, Mapping[str, Any]] = {}
        self._waiting: list[MadeCall] = []
        self._asked: Sequence[Mapping[str, Any]] = ()  # the messages of the last step
        self._answer: Mapping[str, Any] | None = None
        for entry in parts.journal.entries:
            if entry.kind == "reply":
                self._replies.append(Reply.of(entry.body))
            elif entry.kind == "started":
                self._begun.add(entry.body["call"])
            elif entry.kind == "result":
                self._take(entry.body)
            else:
                self._answer = entry.body

    def _take(self, body: Mapping[str, Any]) -> None:
        """A call has a result."""
        self._results[body["call"]] = Result(text=body["text"], error=body["error"], seconds=body["seconds"])
        self._arguments[body["call"]] = body["arguments"]

    def run(self) -> Generator[str | CallEvent, None, None]:
        """Go on until the turn has ended; pieces of what the model says, and its calls, as they come.

        Raises:
            LLMasOSError: as ``TaskModel.generate``; the turn can be continued.
        """
        if self._answer is not None:  # it was written, and not kept yet, when it was killed
            self.ended = self._ended(self._answer["text"], self._answer["finish"])
            return
        while True:
            if self._replies and self._replies[-1].calls:
                yield from self._calls(self._replies[-1])
                if self._waiting:
                    self.ended = self._ended(self._replies[-1].text, "confirm")
                    return
            elif self._replies:  # it was killed before its answer was written as such
                self._end(self._replies[-1].text, self._replies[-1].finish)
                return
            bound = self._reached()
            if bound in ("time", "tokens"):
                self._end(self._replies[-1].text, bound)
                return
            fitting = self._fitting()
            if fitting is None:
                self._end(self._replies[-1].text, "tokens")
                return
            reply = yield from self._step(*fitting, last=bound == "steps")
            if not reply.calls:
                self._end(reply.text, "steps" if bound == "steps" and reply.finish == "stop" else reply.finish)
                return

    def _reached(self) -> Finish | None:
        """The bound that lets no further step call tools; the first step is always taken."""
        if not self._replies:
            return None
        if time.monotonic() >= self._deadline:
            return "time"
        if self._used() >= self._parts.bounds.tokens:
            return "tokens"
        return "steps" if len(self._replies) >= self._parts.bounds.steps else None

    def _used(self) -> int:
        return sum(reply.read + reply.written for reply in self._replies)

    # One step of the model

    def _step(self, messages: Sequence[Mapping[str, Any]], new: int, *, last: bool) -> Generator[str, None, Reply]:
        parts, self._asked = self._parts, messages
        asked: dict[str, Any] = {**parts.sampling, "max_new_tokens": new, "stop": turn_stops(parts.model)}
        if self._described:
            choice = parts.choice if not self._replies else "auto"
            asked |= {"tools": self._described, "tool_choice": "none" if last else choice}
            if parts.bounds.parallel == 1:
                asked["parallel_tool_calls"] = False
        texts: list[str] = []
        calls: list[AskedCall] = []
        finish: Finish = "time"
        used = (0, 0)
        # Closed at once where the time is over, so that nothing goes on computing.
        with contextlib.closing(_closable(parts.model.events(messages, **asked))) as events:
            for event in events:
                if isinstance(event, TextEvent):
                    texts.append(event.text)
                    yield event.text
                elif isinstance(event, ToolCallEvent):
                    if event.call == len(calls):
                        calls.append(AskedCall(self._new_id(event), event.name, ""))
                    calls[event.call] = attrs.evolve(calls[event.call], arguments=calls[event.call].arguments + event.arguments)
                elif isinstance(event, UsageEvent):
                    used = (event.prompt_tokens, event.generated_tokens)
                elif isinstance(event, FinishEvent):
                    if event.reason == "cancelled":  # what the model had said by then is no reason to call anything
                        raise Cancelled("The turn was interrupted, because its request was cancelled; go on with it, or ask again.")
                    finish = "length" if event.reason == "length" else "stop"
                if finish == "time" and time.monotonic() >= self._deadline:
                    break
        reply = Reply("".join(texts).strip(), () if finish == "time" else tuple(calls), finish, *used)
        if reply.text and reply.calls:
            yield "\n\n"
        parts.journal.add("reply", reply.body())
        self._replies.append(reply)
        return reply

    def _new_id(self, event: ToolCallEvent) -> str:
        """An id that no other call of the turn has, whatever the model's are."""
        taken = {call.id for reply in self._replies for call in reply.calls}
        return event.id if event.id and event.id not in taken else f"{len(self._replies):04}{event.call:05}"

    def _fitting(self) -> tuple[list[Mapping[str, Any]], int] | None:
        """The messages of the next step, and the tokens that it may write; None: the turn has used the context up.

        Results that do not fit are left out, the oldest first, then the turns before this one, and the newest result as the last.

        Raises:
            ContextLengthExceeded: the turn does not fit from the beginning.
        """
        parts = self._parts
        model, history = parts.model, list(parts.history)
        new = min(parts.max_new_tokens, max(1, model.context_length // 2), max(1, parts.bounds.tokens - self._used()))
        left_out = 0
        made = [call.id for reply in self._replies for call in reply.calls]
        options = {"tools": self._described} if self._described else {}
        while True:
            messages = [*history, *self._own(set(made[:left_out]))]
            if model.count_tokens(messages, **options) + new <= model.context_length:
                return messages, new
            head = 1 if history[0]["role"] == "system" else 0
            following = next((place for place, each in enumerate(history[head + 1 :], head + 1) if each["role"] == "user"), None)
            if left_out < len(made) - 1:  # the newest result is what the model waits for
                left_out += 1
            elif following is not None:
                history[head:following] = []
            elif new > _LEAST:
                new = max(_LEAST, new // 2)
            elif left_out < len(made):
                left_out += 1
            elif self._replies:
                return None
            else:
                self._too_long(messages)

    def _too_long(self, messages: Sequence[Mapping[str, Any]]) -> NoReturn:
        model = self._parts.model
        tools = model.count_tokens(messages, tools=self._described) - model.count_tokens(messages) if self._described else 0
        said = f", of which its {len(self._described)} tools take {tools}; name fewer tools, or shorten the message" if tools else ""
        raise ContextLengthExceeded(f"The turn does not fit the model's context of {model.context_length} tokens{said}.")

    def _own(self, left_out: set[str]) -> Iterator[Mapping[str, Any]]:
        """The messages of the turn so far."""
        for reply in self._replies:
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": self._arguments[call.id]}}
                for call in reply.calls
            ]
            yield {"role": "assistant", "content": reply.text, "tool_calls": calls}
            for call in reply.calls:
                text = _LEFT_OUT if call.id in left_out else self._results[call.id].text
                yield {"role": "tool", "tool_call_id": call.id, "content": text}

    # The calls of a step

    def _calls(self, reply: Reply) -> Generator[CallEvent, None, None]:
        """Run the calls of a reply that have no result yet; those that wait to be confirmed are in ``_waiting``."""
        ready: list[ReadyCall] = []
        for call in reply.calls:
            if call.id in self._results:
                continue
            found = self._prepared(call)
            if isinstance(found, ReadyCall):
                ready.append(found)
            elif isinstance(found, _Refused):
                yield self._finished(call.id, call.tool, found.arguments, Result(text=f"Error: {found.reason}", error=True))
            else:
                self._waiting.append(found)
        tokens = self._parts.bounds.result_tokens
        share = max(16, min(tokens, self._parts.model.context_length // 4 // len(reply.calls)))
        with contextlib.closing(run_calls(ready, scope=self._scope, parallel=self._parts.bounds.parallel)) as running:
            for each, result in running:
                if result is None:
                    yield self._started(each)
                else:
                    shown = passed(cut(result, share, self._parts.model), self._parts.model)
                    yield self._finished(each.id, each.tool.name, each.arguments, shown)

    def _prepared(self, call: AskedCall) -> ReadyCall | _Refused | MadeCall:
        """A call that may be run, or why not; or the call as it waits to be confirmed."""
        values, tool = call.values(), self._tools.get(call.tool)
        if values is None:
            return _Refused("the call was cut by the token limit, so it was not run; write shorter arguments.", {})
        if tool is None:
            return _Refused(f"there is no tool {call.tool!r}; there are {', '.join(self._tools) or 'none'}.", values)
        if call.id in self._begun and not tool.repeatable:
            return _Refused(_INTERRUPTED, values)
        try:
            ready = checked(call, tool, values, self._parts.model, self._asked)
        except ToolError as error:  # what was blocked is not shown to the model again: guards see each prompt whole
            return _Refused(str(error), {})
        if call.id in self._begun:
            return ready
        if (decision := self._decision(ready)) is None:
            return MadeCall(id=call.id, tool=call.tool, arguments=ready.arguments)
        return ready if decision else _Refused("the call was not allowed, so it was not run.", ready.arguments)

    def _decision(self, call: ReadyCall) -> bool | None:
        decision = decide(self._parts.rules, call.tool, call.arguments)
        if decision != "ask":
            return decision == "allow"
        if call.id in self._parts.decided:
            return self._parts.decided[call.id]
        said = self._parts.listener.confirm(CallEvent(kind="called", id=call.id, tool=call.tool.name, arguments=call.arguments))
        return said if said is not None or self._parts.waits else False

    def _scope(self) -> Scope:
        left = max(0.001, self._deadline - time.monotonic())
        seconds = min(self._parts.bounds.call_seconds, left)
        return Scope(model=self._parts.model, seconds=seconds, conversation=self._parts.conversation)

    def _started(self, call: ReadyCall) -> CallEvent:
        self._parts.journal.add("started", {"call": call.id})
        return self._shown(CallEvent(kind="called", id=call.id, tool=call.tool.name, arguments=call.arguments))

    def _finished(self, call: str, tool: str, arguments: Mapping[str, Any], result: Result) -> CallEvent:
        body = {"call": call, "arguments": dict(arguments), **attrs.asdict(result)}
        self._parts.journal.add("result", body)
        self._take(body)
        kind: Literal["answered", "failed"] = "failed" if result.error else "answered"
        _log.info("The tool %s %s after %.3g s with %d characters.", tool, kind, result.seconds, len(result.text))
        return self._shown(CallEvent(kind=kind, id=call, tool=tool, arguments=arguments, text=result.text, seconds=result.seconds))

    def _shown(self, event: CallEvent) -> CallEvent:
        self._parts.listener.shown(event)
        return event

    # The end

    def _end(self, text: str, finish: Finish) -> None:
        self._parts.journal.add("answer", {"text": text, "finish": finish})
        self.ended = self._ended(text, finish)

    def _ended(self, text: str, finish: Finish) -> Ended:
        return Ended(
            text=text,
            finish=finish,
            calls=tuple(self._made()),
            pending=tuple(self._waiting),
            prompt_tokens=sum(reply.read for reply in self._replies),
            generated_tokens=sum(reply.written for reply in self._replies),
        )

    def _made(self) -> Iterator[MadeCall]:
        for reply in self._replies:
            for call in reply.calls:
                if (result := self._results.get(call.id)) is not None:
                    yield MadeCall(
                        id=call.id,
                        tool=call.tool,
                        arguments=self._arguments[call.id],
                        result=result.text,
                        error=result.error,
                        seconds=round(result.seconds, 3),
                    )


def tool_choice(name: str, tools: Sequence[Tool]) -> Any:
    """``tool_choice`` of the runtime: ``auto``, ``none``, ``required``, or the name of the tool that has to be called."""
    if name in ("auto", "none", "required"):
        return name
    if name not in {tool.name for tool in tools}:
        raise RequestError(f'tool_choice is "{name}", and it must be auto, none, required, or the name of one of the tools.', "tool_choice")
    return {"type": "function", "function": {"name": name}}


def _closable(events: Iterator[Any]) -> Generator[Any, None, None]:
    """A generator over them: iterators need not have ``close``."""
    yield from events
