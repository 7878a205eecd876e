"""Generates code, checks its syntax, and retries once."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from llmasos_app_code.fences import code_in, fenced, fenced_form
from llmasos_app_code.languages import canonical, syntax_problem
from llmasos_hookspecs import TaskModel
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, without_control_tokens


@attrs.frozen(kw_only=True)
class Written:
    """Code that a model wrote.

    Attributes:
        code: without its fence.
        language: as Markdown fences name it.
        checked: whether it was parsed.
        problem: its syntax error; empty if it parses or was not checked.
        repaired: whether the first answer did not parse and this is the second.
        finish_reason: ``length`` where the token limit cut it.
    """

    code: str
    language: str
    checked: bool = False
    problem: str = ""
    repaired: bool = False
    finish_reason: str = "stop"

    def __str__(self) -> str:
        return self.code


def write_code(model: TaskModel, messages: Sequence[Message], language: str, *, check: bool, max_new_tokens: int) -> Written:
    """Ask for code; with ``check`` parse it, and where that fails show the model the error and ask once more.

    The answer's form is constrained to one fenced block. Raises ``RequestError`` where ``check`` is set for a language that has no parser.
    """
    name = canonical(language)
    room = reply_room(model, max_new_tokens)
    if check:
        syntax_problem("0", name)  # whether there is a parser, before anything is generated
    first = _ask(model, messages, name, room)
    if not check:
        return first
    problem = syntax_problem(first.code, name)
    if problem is None:
        return attrs.evolve(first, checked=True)
    shown = without_control_tokens(fenced(first.code, name), model.tokenizer)
    request = f"{shown}\n\nThis {name} code does not parse: {problem}. Write it again, correctly and in full."
    second = _ask(model, [*messages[:-1], {"role": "user", "content": f"{messages[-1]['content']}\n\n{request}"}], name, room)
    still = syntax_problem(second.code, name)
    if still is None:
        return attrs.evolve(second, checked=True, repaired=True)
    return attrs.evolve(first, checked=True, problem=problem)


def _ask(model: TaskModel, messages: Sequence[Message], language: str, room: int) -> Written:
    fitted, _ = shorten_last(model, messages, model.context_length - room)
    # Code that is translated or repaired repeats names and whole lines of what the prompt shows.
    generation = model.generate(fitted, max_new_tokens=room, regex=fenced_form(language), copying=True)
    return Written(code=code_in(generation.text), language=language, finish_reason=generation.finish_reason)
