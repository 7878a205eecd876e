"""Names that the shell completes, in the verbs of plugins too: ``llmasos`` puts what knows them at the root of its contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import typer


@runtime_checkable
class Names(Protocol):
    """What knows the names of components and models: the ``obj`` of the context of ``llmasos``."""

    def names(self, kind: str) -> Iterable[str]:
        """The names of the installed components of a kind; of the kind ``model``, aliases and stored models."""
        ...


def names_of(kind: str) -> Callable[[typer.Context, str], list[str]]:
    """A function for ``autocompletion=``: the names of a kind (``loader``, ``scheduler``, ``task``, ``model`` ...) that begin as typed."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        known = ctx.obj.names(kind) if isinstance(ctx.obj, Names) else ()
        return sorted({name for name in known if name.startswith(incomplete)})

    return complete
