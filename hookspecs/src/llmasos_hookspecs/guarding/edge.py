"""Calls of a plugin's objects, by core or by another plugin: separates exceptions of plugins from the user's Ctrl-C, and describes them in
words."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from llmasos_hookspecs.errors import LLMasOSError, PluginError, ResourceError


def interrupted(error: BaseException) -> bool:
    """Whether ``error`` is the user's Ctrl-C, which Python raises on the main thread only; it is re-raised unchanged.

    Every other exception from a plugin is the plugin's fault, also ``SystemExit`` and others that are not an ``Exception``: they would
    silently end the thread that called it.
    """
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def in_words(error: BaseException) -> str:
    """Type and text of an error in one line, also of one whose own text cannot be had."""
    try:
        text = " ".join(str(error).split())
    except BaseException as second:
        if interrupted(second):
            raise
        text = "its text cannot be read"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def kind_of(value: object) -> str:
    """The type of what a plugin gave, with its article: its text might be anything."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def as_ours(error: BaseException, label: str, where: str, distribution: str = "") -> LLMasOSError:
    """What a plugin raised in ``where``, as an error that names it: its own where it meant it."""
    if isinstance(error, LLMasOSError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError(
            f"The {label} ran out of memory in {where}; end other programs, lower resources.memory, or take a smaller or quantised model."
        )
    cure = f"try another version of {distribution} or tell its author" if distribution else "tell its author"
    return PluginError(f"The {label} failed in {where}: {in_words(error)}; this is a fault of the plugin, so {cure}.")


@contextlib.contextmanager
def crossing(label: str, where: str) -> Iterator[None]:
    """Call a plugin's object in the ``with`` block: what it raises becomes what ``as_ours`` makes of it."""
    try:
        yield
    except BaseException as error:
        ours = error if interrupted(error) else as_ours(error, label, where)
        if ours is error:
            raise
        raise ours from error
