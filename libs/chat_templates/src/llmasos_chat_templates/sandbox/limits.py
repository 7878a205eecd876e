"""What one rendering may take: steps, bytes made, bytes read, seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from jinja2.utils import Namespace

#: Characters that a rendered chat, or any value on its way, may have. The longest contexts in use hold some 8 million.
MAX_CHARACTERS: Final = 16 << 20
#: Turns of loops (more for long bodies), calls and filters; a chat of 1,000 messages takes some fifty thousand.
MAX_STEPS: Final = 1_000_000
#: Bytes of all texts and lists that a rendering makes, whether they live at once or not.
MAX_MADE: Final = 160 << 20
#: Characters and values that it looks at, to search, compare or write them.
MAX_READ: Final = 1 << 30
MAX_SECONDS: Final = 5.0
#: Integers are no longer; no template computes with longer ones, and products of long ones take hours.
_MAX_BITS: Final = 4096
#: What a value costs beside its characters; so one may hold 262,144 others. A chat with a hundred tools has ten thousand.
VALUE: Final = 64


class LimitReached(Exception):
    """A template asked for more time or memory than any real one needs, or for what none needs."""


class _Budget:
    def __init__(self) -> None:
        self.steps, self.made, self.read = MAX_STEPS, MAX_MADE, MAX_READ
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


def _now() -> _Budget:
    found = _budget.get()
    if found is None:
        raise LimitReached("it computes where no budget was given")
    if time.monotonic() > found.deadline:
        raise LimitReached("it runs too long")
    return found


def spend(steps: int = 1) -> bool:
    """Pay for steps; always true, so that it can stand in a condition."""
    found = _now()
    found.steps -= steps
    if found.steps < 0:
        raise LimitReached("it runs too long")
    return True


def pay_read(amount: int) -> None:
    """Pay for looking at characters."""
    found = _now()
    found.read -= amount
    if found.read < 0:
        raise LimitReached("it runs too long")


def pay_bytes(size: int) -> None:
    """Pay for what is about to be made."""
    found = _now()
    found.made -= size
    if found.made < 0:
        raise LimitReached("it makes too much")


def bounded(size: int) -> None:
    """Refuse a text of more than the most characters."""
    if size > MAX_CHARACTERS:
        raise LimitReached("it makes too long a text")


def bounded_number(bits: int) -> None:
    """Refuse an integer of too many bits."""
    if bits > _MAX_BITS:
        raise LimitReached("it makes too large a number")


def made(value: Any) -> Any:
    """The value, paid for: a new text or list, or a number."""
    if isinstance(value, str):
        bounded(len(value))
        pay_bytes(sys.getsizeof(value))
    elif isinstance(value, (list, tuple, dict)):
        pay_bytes(sys.getsizeof(value) + 16 * len(value))
    elif isinstance(value, int):
        bounded_number(value.bit_length())
    return value


def weighed(value: Any) -> Any:
    """The value, paid for as something that is compared or searched through to its last part."""
    weigh(value)
    return value


def weigh(value: Any) -> tuple[int, int]:
    """Pay for looking at a value with all that it holds; returns its characters as a text at most, and how deep it is nested.

    What holds one list many times counts as often as it would be written.
    """
    if isinstance(value, str):
        pay_read(len(value))
        return len(value), 0
    characters = depth = 0
    level: list[Any] = [value]
    while level:
        below: list[Any] = []
        cost = 0
        for each in level:
            if isinstance(each, str):
                characters += len(each)
                cost += len(each)
            elif isinstance(each, int):
                bounded_number(each.bit_length())
            if len(below) > MAX_CHARACTERS:
                raise LimitReached("it makes too large a value")
            below.extend(_parts(each))
        characters += VALUE * len(level)
        pay_read(cost + VALUE * len(level))
        bounded(characters)
        depth += bool(below)
        level = below
    return characters, depth


def _parts(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (KeysView, ValuesView, ItemsView)):
        return list(value)
    if isinstance(value, Namespace):  # its text is that of all it holds
        return list(vars(value).values())
    return ()
