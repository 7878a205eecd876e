"""Turns panics of the Rust tokenizers library into Python exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def guarded() -> Iterator[None]:
    """A panic of Rust code arrives as a ``PanicException``, which derives from ``BaseException`` and would pass every handler."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from error
        raise
