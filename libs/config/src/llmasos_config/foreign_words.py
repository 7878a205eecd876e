"""The words of other libraries and servers for what LLMasOS has too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _tables() -> dict[str, Any]:
    import tomllib  # where a word is not known: not whenever a program starts

    return tomllib.loads(Path(__file__).with_name("foreign_words.toml").read_text(encoding="utf-8"))


@functools.cache
def foreign_words(place: str) -> dict[str, str]:
    """What others call something -> our name for it, or our name and a few words.

    Args:
        place: what is named: an option of a ``generation``, an option of the command line (``verbs``), an argument of ``load_model``, a
            method of a ``model``, or a command of llmasos (``commands``) or of one of its groups (``commands.models``).
    """
    return {theirs: ours for ours, words in _tables().get(place, {}).items() for theirs in words}


def our_word(word: str, place: str, known: Collection[str]) -> str:
    """The end of a sentence that says that there is no ``word``: what it is called here, or the nearest of ``known``, or a full stop."""
    ours = foreign_words(place).get(word.lower())
    return f"; here it is {ours}." if ours else did_you_mean(word, known)


def known_arguments(place: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function, so that an argument that it does not have is refused in a sentence with what it is called here.

    Raises ``RequestError`` for one, which names it as its key.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise RequestError(f'{function.__name__} has no argument "{name}"{our_word(name, place, known)}', name)
            return function(*args, **kwargs)

        return call

    return decorate


class InOurWords:
    """Of a class with methods that others call differently: what it does not have is answered with what it is called here."""

    if not TYPE_CHECKING:  # which would let every name pass

        def __getattr__(self, name: str) -> NoReturn:
            """Raises ``AttributeError``."""
            kind, end = type(self), "."
            # Copies ask for special names, and a property may fail by an AttributeError of its own.
            if not name.startswith("_") and not hasattr(kind, name):
                end = our_word(name, "model", [each for each in dir(kind) if not each.startswith("_")])
            raise AttributeError(f'{kind.__name__} has no "{name}"{end}', name=name, obj=self)
