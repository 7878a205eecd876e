"""A jinja2 environment for chat templates, which come with a model and are run without being trusted.

jinja2's immutable sandbox keeps a template from reaching Python's internals. What it does not bound is time and memory: here
every turn of a loop and every call of a macro costs a step of a budget, and what would make a huge value is refused before it is
made. The rest (filters, globals, whitespace) is as transformers has it, so that templates render alike.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

#: Characters that a rendered chat, or any value on its way, may have. The longest contexts in use hold some 8 million.
MAX_CHARACTERS: Final = 16 << 20
#: Turns of loops, calls and filters; a chat of 1,000 messages takes some ten thousand.
MAX_STEPS: Final = 300_000
MAX_SECONDS: Final = 5.0
#: The largest number that a filter or a padding method takes; a width of text, in practice.
MAX_ARGUMENT: Final = 100_000
_MAX_BITS: Final = 4096
_PADDING: Final = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})
_WIDE: Final = re.compile(r"\d{5}|\*")

_T = TypeVar("_T")


class LimitReached(Exception):
    """A template asked for more time or memory than any real one needs."""


class _Budget:
    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS


_budget: ContextVar[_Budget | None] = ContextVar("chat_template_budget", default=None)


@contextmanager
def budget() -> Iterator[None]:
    """Render inside this block, which ``LimitReached`` leaves when the budget is spent."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _spend() -> str:
    found = _budget.get()
    if found is not None:
        found.steps -= 1
        if found.steps < 0 or (not found.steps % 256 and time.monotonic() > found.deadline):
            raise LimitReached("it runs too long")
    return ""


def _bounded(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise LimitReached("it makes too long a text")


class _Metered(NodeTransformer):
    """Puts a step into every loop and macro, and a check of sizes into every ``~``."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's naming
        return self._with_step(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._with_step(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._with_step(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", list(node.nodes), node.lineno)

    def _with_step(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("spend", [], node.lineno), lineno=node.lineno))
        assert isinstance(node, nodes.Node)
        return node


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    # An attribute of the environment: a template can rebind any name, and not this.
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), arguments, [], None, None, lineno=line)


class _Generation(Extension):
    """``{% generation %}``: transformers marks the assistant's words with it for training; for rendering it is nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of all chat templates; see the module."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.spend = _spend
        self.concatenate = _concatenate
        self.filters = {name: _guarded_filter(name, function) for name, function in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.globals.pop("lipsum", None)
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _PlainNamespace,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metered().visit(tree)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would make a huge value."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, bytes, list, tuple)) and isinstance(other, int):
                    _bounded(len(one) * max(0, other))
            _bounded_number(_bits(left) + _bits(right))
        elif operator == "**":
            _bounded_number(_bits(left) * (abs(right) if isinstance(right, int) else 0))
        elif operator == "+" and isinstance(left, (str, bytes, list, tuple)) and isinstance(right, (str, bytes, list, tuple)):
            _bounded(len(left) + len(right))
        elif operator == "%" and isinstance(left, (str, bytes)):
            _bounded_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuse calls of string methods that would make a huge value; every call costs a step."""
        _spend()
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str):
            if name in _PADDING and any(isinstance(value, int) and value > MAX_ARGUMENT for value in args):
                raise LimitReached(f"it asks {name} for too wide a text")
            if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
                _bounded_replace(owner, args[0], args[1])
            elif name == "join" and args:
                args = (_bounded_parts(owner, args[0]), *args[1:])
        return super().call(context, called, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, which jinja2 replaces by its own, with a check of widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def guarded(*args: Any, **kwargs: Any) -> str:
            _bounded_format(value.__self__, (*args, *kwargs.values()))
            return str(wrapped(*args, **kwargs))

        return guarded


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _bounded_number(bits: int) -> None:
    if bits > _MAX_BITS:
        raise LimitReached("it makes too large a number")


def _bounded_format(template: str | bytes, values: Any) -> None:
    text = template.decode("latin-1") if isinstance(template, bytes) else template
    if _WIDE.search(text):
        raise LimitReached("it formats too wide a text")
    listed = values if isinstance(values, tuple) else (values,)
    # What is no text is shown with what it holds; 64 characters an element is a guess that real templates do not come near.
    largest = sum(len(value) if isinstance(value, str) else 64 * (1 + (len(value) if hasattr(value, "__len__") else 0)) for value in listed)
    _bounded(len(text) + (text.count("{") + text.count("%")) * largest)


def _bounded_replace(text: str, old: str, new: str) -> None:
    found = text.count(old) if old else len(text) + 1
    _bounded(len(text) + found * max(0, len(new) - len(old)))


def _bounded_parts(separator: str, parts: Any) -> list[Any]:
    listed = list(parts)
    _bounded(sum(len(part) if isinstance(part, str) else 0 for part in listed) + len(separator) * len(listed))
    return listed


def _concatenate(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


def _guarded_filter(name: str, function: Callable[..., _T]) -> Callable[..., _T]:
    """The filter, which refuses what would make a huge value, and costs a step."""
    # Whether jinja2 hands it the environment or the context before its own arguments.
    wanted = getattr(function, "jinja_pass_arg", None)
    first = 0 if wanted is None else 1

    def guarded(*args: Any, **kwargs: Any) -> _T:
        _spend()
        subject, rest = args[first], [*args[first + 1 :], *kwargs.values()]
        if any(isinstance(value, int) and abs(value) > MAX_ARGUMENT for value in rest):
            raise LimitReached(f"it gives the filter {name} too large a number")
        texts = [value for value in rest if isinstance(value, str)]
        if name == "join":
            args = (*args[:first], _bounded_parts(texts[0] if texts else "", subject), *args[first + 1 :])
        elif isinstance(subject, str):
            if name == "format":
                _bounded_format(subject, tuple(rest))
            elif name == "replace" and len(texts) >= 2:
                _bounded_replace(subject, texts[0], texts[1])
            elif name == "indent":
                width = next((len(value) if isinstance(value, str) else value for value in rest if isinstance(value, (int, str))), 4)
                _bounded(len(subject) + subject.count("\n") * width)
        return function(*args, **kwargs)

    if wanted is not None:
        guarded.jinja_pass_arg = wanted  # type: ignore[attr-defined]
    return guarded


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    # jinja2's own escapes HTML, which no model was trained on.
    if isinstance(indent, int) and indent > 64:
        raise LimitReached("it indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 256:
        raise LimitReached("it asks for too long a date")
    return datetime.now().strftime(form)


class _PlainNamespace(Namespace):
    """A namespace that takes no names of Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")
