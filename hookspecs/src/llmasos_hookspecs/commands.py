"""The command contract: a verb of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.context import Context
from llmasos_hookspecs.tasks import TaskModel


@runtime_checkable
class Command(Protocol):
    """A verb: what ``click.command`` makes, or ``typer.main.get_command`` of a typer app. The contract itself needs neither library."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *, standalone_mode: bool = True) -> Any:
        """Parse ``args`` and run. Core calls it with ``standalone_mode=False``: errors are raised, and an int returned by the command is
        the exit code (0 done, 1 failed, 2 wrong use)."""
        ...


@attrs.frozen(kw_only=True)
class ComponentEntry:
    """An installed component as its distribution's metadata announces it; nothing was imported for it.

    Attributes:
        kind, name: as in config.
        module: import name of the module with its hooks.
        distribution, version: of the package that brings it.
        summary: the distribution's own description, in one line; may be empty.
    """

    kind: str
    name: str
    module: str
    distribution: str
    version: str
    summary: str = ""


class CommandModel(TaskModel, Protocol):
    """A model that a command opened."""

    def describe(self) -> Mapping[str, Any]:
        """Facts about the model as plain data, without loading it: ``name``, ``state`` and, once it is loaded, ``source``, ``loader`` (with
        its distribution and version), ``dtype``, ``context_length`` and more. Asking for ``TaskModel.context_length`` loads it."""
        ...


class CommandContext(Context, Protocol):
    """The context of ``llmasos_command``; unlike others it is valid as long as the command runs."""

    def components(self, kind: str | None = None) -> Sequence[ComponentEntry]:
        """All installed components, or those of a kind, sorted by kind and name; from metadata alone."""
        ...

    def model(
        self,
        reference: str | None = None,
        *,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> AbstractContextManager[CommandModel]:
        """A model, loaded at its first use and freed at the end of the ``with`` block.

        Args:
            reference: a model of the config by name, or any model reference; None: the config's default model.
            loader: a loader's name; None: the config's.
            config: a config file; None: the one that other verbs take.
            settings: ``path=value``, as for ``--set``.
            quiet: show neither progress nor notes.

        Raises:
            LLMasOSError: the config is wrong, or the model cannot be fetched or loaded.
        """
        ...

    def answer(self, value: Any, text: str = "", *, as_json: bool = False) -> None:
        """Print the answer on standard output: ``value``, plain data, as JSON, or else ``text``. Control characters in the text are shown
        and not executed where the output is a terminal."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on standard output: drawn at a terminal, tab-separated lines in a pipe."""
        ...
