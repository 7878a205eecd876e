"""Runs calls of tools: each on a thread of its own, several at once, each within its bound."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

import attrs

from llmasos_app_assistant.tools.signature import as_text
from llmasos_app_assistant.tools.tool import Scope, Tool, ToolError
from llmasos_hookspecs import Blocked, LLMasOSError, TaskModel
from llmasos_task_kit.prompting import head

_log = logging.getLogger("llmasos.assist")

#: Characters of a result for each of its tokens: what is longer is cut before its tokens are counted.
_CHARACTERS: Final = 16


@attrs.frozen
class AskedCall:
    """A call that a model asks for.

    Attributes:
        id: of the call.
        tool: its name.
        arguments: their JSON; it is not whole where the token limit cut the answer.
    """

    id: str
    tool: str
    arguments: str

    def values(self) -> dict[str, Any] | None:
        """The arguments; None where they are no JSON object."""
        try:
            found = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


@attrs.frozen(kw_only=True)
class Result:
    """What a call came to: a text for the model, whether that is an error, and the seconds that it took."""

    text: str
    error: bool = False
    seconds: float = 0.0


@attrs.frozen(eq=False)
class ReadyCall:
    """A call that may be run."""

    id: str
    tool: Tool
    arguments: Mapping[str, Any]


class _Running:
    """A call on its thread."""

    def __init__(self, call: ReadyCall, scope: Scope, over: SimpleQueue[_Running]) -> None:
        self.call = call
        self.began = time.monotonic()
        self.result: Result | None = None
        self._scope = scope
        self._over = over
        # The thread's requests are the task's: they have its deadline, and end with it.
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._run,), name=f"llmasos-tool-{call.tool.name}", daemon=True).start()

    @property
    def bound(self) -> float:
        """Seconds that it may take."""
        return self._scope.seconds

    @property
    def left(self) -> float:
        """Seconds that it may still take."""
        return self.began + self.bound - time.monotonic()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._scope.ended.set()

    def _run(self) -> None:
        try:
            found = Result(text=as_text(self.call.tool.run(self.call.arguments, self._scope)))
        except LLMasOSError as error:
            found = Result(text=f"Error: {error}", error=True)
        except Exception as error:
            _log.debug("The tool %s failed.", self.call.tool.name, exc_info=True)
            found = Result(text=f"Error: {type(error).__name__}: {error}", error=True)
        except BaseException as error:  # a tool that ends its thread, as sys.exit does, has failed like any other
            found = Result(text=f"Error: {type(error).__name__}", error=True)
        self.result = attrs.evolve(found, seconds=time.monotonic() - self.began)
        self._over.put(self)


def run_calls(
    calls: Sequence[ReadyCall], *, scope: Callable[[], Scope], parallel: int
) -> Generator[tuple[ReadyCall, Result | None], None, None]:
    """Run calls, ``parallel`` at once, and give each twice: with None before it is run, and with its result as it ends. Where the iteration
    is left early, nobody waits for the others any more.

    Args:
        scope: makes the scope of a call that begins now.
    """
    waiting, running, over = deque(calls), list[_Running](), SimpleQueue[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                call = waiting.popleft()
                yield call, None
                running.append(_Running(call, scope(), over))
            try:
                ended = [over.get(timeout=max(0.0, min(each.left for each in running)))]
            except Empty:
                ended = []
            for each in [*ended, *(each for each in running if each.left <= 0 and each not in ended)]:
                if each not in running:  # it was given up before
                    continue
                running.remove(each)
                yield each.call, each.result or _late(each)
    finally:
        for each in running:
            each.give_up()


def _late(each: _Running) -> Result:
    each.give_up()
    text = f"Error: {each.call.tool.name} did not answer within {each.bound:.3g} seconds; whether it did what it was asked is not known."
    return Result(text=text, error=True, seconds=time.monotonic() - each.began)


def cut(result: Result, tokens: int, model: TaskModel) -> Result:
    """A result of at most ``tokens`` tokens, beside a sentence that says what was left out."""
    text = result.text[: tokens * _CHARACTERS]
    kept = head(text, tokens, model.tokenizer)
    if len(kept) == len(result.text):
        return result
    return attrs.evolve(result, text=f"{kept}\n[{len(result.text) - len(kept)} more characters were left out.]")


def passed(result: Result, model: TaskModel) -> Result:
    """What the guards let pass of a result; why they blocked it, where they do."""
    if not result.text:
        return result
    try:
        return attrs.evolve(result, text=model.check_text(result.text, stage="tool_result"))
    except Blocked as blocked:
        return attrs.evolve(result, text=f"Error: what the tool gave back was blocked, because {blocked.reason}.", error=True)


def checked(call: AskedCall, tool: Tool, values: Mapping[str, Any], model: TaskModel, messages: Sequence[Mapping[str, Any]]) -> ReadyCall:
    """A call, which was the answer to ``messages``, with the arguments that pass the guards. Raises ``ToolError`` where they are
    blocked."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        found = model.check_text(text, stage="tool_call", messages=messages)
    except Blocked as blocked:
        raise ToolError(f"The call was blocked, because {blocked.reason}.") from blocked
    if found == text:
        return ReadyCall(call.id, tool, values)
    try:
        changed = json.loads(found)
    except ValueError:
        changed = None
    if not isinstance(changed, dict):
        raise ToolError("A guard replaced the arguments by what is no JSON object, so the call was not run.")
    return ReadyCall(call.id, tool, changed)
