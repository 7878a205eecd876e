"""What a chat template may call: methods, filters and tests, named one by one, with what each costs.

The lists hold what the templates of published models use. Everything else is refused by name, whatever it would do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.tests import TESTS as DEFAULT_TESTS

from llmasos_chat_templates.sandbox.limits import (
    VALUE,
    LimitReached,
    bounded,
    bounded_number,
    made,
    pay_bytes,
    pay_read,
    spend,
    weigh,
)

#: The largest number that a filter takes; a width of text, in practice.
MAX_ARGUMENT: Final = 100_000
#: All but stand-ins of ``control_tokens``, which are ASCII in the end.
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f\ue000-\ue0ff]+")
_WIDE: Final = re.compile(r"\d{5}|\*")

#: Methods of texts. ``format`` is jinja2's own, behind ``guarded_format``.
TEXT_METHODS: Final = frozenset({
    "capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier",
    "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title",
    "upper",
})  # fmt: skip
DICT_METHODS: Final = frozenset({"get", "items", "keys", "values"})
LIST_METHODS: Final = frozenset({"count", "index"})
#: What can be read of ``loop``, and of a macro.
LOOP_ATTRIBUTES: Final = frozenset({
    "changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0",
})  # fmt: skip
MACRO_ATTRIBUTES: Final = frozenset({"arguments", "name"})

#: Filters that look at their subject as a whole and no deeper.
_SHALLOW: Final = frozenset({
    "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr",
})  # fmt: skip
#: Filters that look at all that their arguments hold.
_DEEP: Final = frozenset({
    "abs", "capitalize", "dictsort", "float", "format", "indent", "int", "join", "lower", "max", "min", "replace", "round", "sort",
    "string", "sum", "title", "trim", "unique", "upper", "wordcount",
})  # fmt: skip
#: These compare their parts with one another, some twenty times each in the longest lists.
_SORTING: Final = frozenset({"dictsort", "sort", "unique", "max", "min"})

#: Searches from the end, and of any of several characters, which Python does in steps of both lengths.
_BY_BOTH_LENGTHS: Final = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})

TESTS: Final = frozenset({
    "!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "greaterthan",
    "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence",
    "string", "true", "undefined", "upper", "callable",
})  # fmt: skip


def call_text_method(called: Callable[..., Any], text: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of a text that is on the list, if the budget has room for what it makes."""
    name = called.__name__
    pay_read(len(text))
    values = [*args, *kwargs.values()]
    longest = max((len(value) for value in values if isinstance(value, str)), default=1)
    if name in _BY_BOTH_LENGTHS:
        pay_read(len(text) * longest)
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        bounded_replace(text, args[0], args[1])
    elif name == "join" and args:
        args = (bounded_parts(text, args[0]), *args[1:])
    else:
        for value in values:
            weigh(value)
    return made(called(*args, **kwargs))


def filters() -> dict[str, Callable[..., Any]]:
    """The filters by name."""
    found = {name: _guarded(name, DEFAULT_FILTERS[name]) for name in _SHALLOW | _DEEP}
    return found | {"tojson": to_json, "safe": _text, "escape": _escaped, "e": _escaped}


def tests() -> dict[str, Callable[..., Any]]:
    """The tests by name."""
    registry: Mapping[str, Callable[..., Any]] = DEFAULT_TESTS  # type: ignore[assignment]  # jinja2 types it by its first entry
    return {name: _guarded_test(registry[name]) for name in TESTS}


def guarded_format(wrapped: Callable[..., str], text: str) -> Callable[..., str]:
    """``text.format``, with a check of widths."""

    def guarded(*args: Any, **kwargs: Any) -> str:
        bounded_format(text, (*args, *kwargs.values()))
        return str(made(wrapped(*args, **kwargs)))

    return guarded


def bounded_format(template: str, values: Any) -> None:
    """Refuse a format that would make a huge text."""
    if _WIDE.search(template):
        raise LimitReached("it formats too wide a text")
    size = weigh(values)[0]
    bounded(len(template) + (template.count("{") + template.count("%")) * size)


def bounded_replace(text: str, old: str, new: str) -> None:
    """Refuse a replacement that would make a huge text."""
    found = text.count(old) if old else len(text) + 1
    bounded(len(text) + found * max(0, len(new) - len(old)))


def bounded_parts(separator: str, parts: Any) -> list[Any]:
    """The parts to be joined, as a list; what is no text is written, so it counts with all that it holds."""
    listed = _listed(parts)
    bounded(weigh(listed)[0] + len(separator) * len(listed))
    return listed


def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """JSON as transformers' ``tojson`` writes it; jinja2's own escapes HTML, which no model was trained on."""
    spend()
    if (isinstance(indent, int) and indent > 64) or (isinstance(indent, str) and len(indent) > 64):
        raise LimitReached("it indents JSON too far")
    characters, depth = weigh(value)
    width = indent if isinstance(indent, int) else len(indent or "")
    # A value takes a line of its own where there is an indent.
    bounded(characters + characters // VALUE * width * (depth + 1))
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii and not text.isascii():
        bounded(6 * len(text))
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    return str(made(text))


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that pays for what it reads and makes."""
    # Whether jinja2 hands it the environment or the context before its own arguments.
    wanted = getattr(function, "jinja_pass_arg", None)
    first = 0 if wanted is None else 1

    def guarded(*args: Any, **kwargs: Any) -> Any:
        spend()
        subject, rest = args[first], [*args[first + 1 :], *kwargs.values()]
        if any(isinstance(value, int) and abs(value) > MAX_ARGUMENT for value in rest):
            raise LimitReached(f"it gives the filter {name} too large a number")
        if isinstance(subject, Iterator):
            subject = _listed(subject)
        pay_read(len(subject) if hasattr(subject, "__len__") else 1)
        if name in _DEEP:
            subject = _checked(name, subject, rest)
        return _made(function(*args[:first], subject, *args[first + 1 :], **kwargs))

    if wanted is not None:
        guarded.jinja_pass_arg = wanted  # type: ignore[attr-defined]  # how Jinja2 marks such functions
    return guarded


def _checked(name: str, subject: Any, rest: list[Any]) -> Any:
    """The subject of a filter that is about to look at all that its arguments hold."""
    size = weigh(subject)[0] + sum(weigh(value)[0] for value in rest)
    texts = [value for value in rest if isinstance(value, str)]
    if name in _SORTING:
        pay_read(20 * size)
    elif name == "join":
        return bounded_parts(texts[0] if texts else "", subject)
    elif name == "sum" and any(not isinstance(value, (int, float, str)) for value in rest):
        raise LimitReached("it sums what are no numbers")
    elif name == "format":
        bounded_format(str(subject), tuple(rest))
    elif name == "replace" and len(texts) >= 2:
        bounded_replace(str(subject), texts[0], texts[1])
    elif name == "trim" and texts:
        pay_read(len(str(subject)) * len(texts[0]))
    elif name == "indent":
        width = next((len(value) if isinstance(value, str) else value for value in rest if isinstance(value, (int, str))), 4)
        text = str(subject)
        bounded(len(text) + (text.count("\n") + 1) * width)
    return subject


def _made(value: Any) -> Any:
    return _listed(value) if isinstance(value, Iterator) else made(value)


def _listed(values: Any) -> list[Any]:
    """All values as a list, each paid for as it comes."""
    found = []
    for value in values:
        pay_bytes(16)
        found.append(value)
    return found


def _guarded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    wanted = getattr(function, "jinja_pass_arg", None)

    def guarded(*args: Any) -> Any:
        spend()
        for value in args if wanted is None else args[1:]:
            weigh(value)
        return function(*args)

    if wanted is not None:
        guarded.jinja_pass_arg = wanted  # type: ignore[attr-defined]  # how Jinja2 marks such functions
    return guarded


def _text(value: Any) -> str:
    weigh(value)
    return str(made(str(value)))


def _escaped(value: Any) -> str:
    from markupsafe import escape

    text = _text(value)
    bounded(6 * len(text))
    return str(made(str(escape(text))))


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Pay for ``left operator right``, or refuse it, before it is done."""
    sequences = (str, list, tuple)
    if isinstance(left, int) and isinstance(right, int):
        factor = abs(right) if operator == "**" else 1
        bounded_number((left.bit_length() * factor) + (right.bit_length() if operator != "**" else 0))
    elif operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, sequences) and isinstance(other, int):
                bounded(len(one) * max(0, other))
                pay_bytes(8 * len(one) * max(0, other) if not isinstance(one, str) else 0)
    elif operator == "+" and isinstance(left, sequences) and isinstance(right, sequences):
        bounded(len(left) + len(right))
    elif operator == "%" and isinstance(left, str):
        bounded_format(left, right)
