"""What ``llmasos run`` is asked: the words of its command line, and standard input."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from llmasos.cli.console import print_note
from llmasos_hookspecs import RequestError

#: Seconds after which a pipe that says nothing is told of: a prompt was given, and the user may not know that it is waited for.
_PATIENCE: Final = 3.0


@attrs.frozen
class Asked:
    """A prompt, and the model that the words named; None where they named none."""

    text: str
    model: str | None = None


def read_asked(words: Sequence[str], names_model: Callable[[str], bool]) -> Asked:
    """The words ``PROMPT`` or ``MODEL PROMPT``. Text that is piped in stands before the prompt; for ``-`` or without one, it is the prompt,
    also after one word that ``names_model`` knows.

    Raises:
        RequestError: there are more words, or standard input is no text.
    """
    if len(words) > 2:
        raise RequestError(f'A prompt of several words stands in quotes: llmasos run "{" ".join(words)}".')
    *model, prompt = words or ["-"]
    if prompt == "-":
        return Asked(read_text(None), *model)
    context = _piped()
    if context.strip() and not model and names_model(prompt):
        return Asked(context, prompt)
    return Asked(f"{context}\n\n{prompt}" if context.strip() else prompt, *model)


def read_text(argument: str | None) -> str:
    """The argument, or all of standard input where it is missing or ``-``, without the line break that shells put at its end."""
    if argument not in (None, "-"):
        assert argument is not None
        return argument
    if sys.stdin.isatty():
        print_note("Reading the text from the keyboard; end it with Ctrl-D.")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"Standard input is not in UTF-8 ({error.reason} at byte {error.start}); convert it first.") from error


def _piped() -> str:
    """What a pipe, a file or a socket on standard input holds; empty where it is something else, such as a terminal or nothing at all."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # no standard input, or one that is no file
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    if os.name != "nt" and not select.select([sys.stdin], [], [], _PATIENCE)[0]:
        print_note("Waiting for the end of standard input, which goes before the prompt; with </dev/null there is none.")
    return read_text(None)
