"""How far a verb is, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmasos_hookspecs import CommandContext


@contextmanager
def bytes_done(context: CommandContext, label: str, files: Iterable[Path], *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how many of the files' bytes are done, unless the user wants quiet; gives what is told of them."""
    if quiet:
        yield lambda _: None
        return
    with context.progress(label, sum(path.stat().st_size for path in files), "B") as shown:
        yield shown.advance
