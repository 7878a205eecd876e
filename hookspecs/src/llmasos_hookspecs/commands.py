"""The command contract: a verb of the command line."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import Context, ReachedComponent
from llmasos_hookspecs.reports import Report
from llmasos_hookspecs.tasks import Prompt, Task, TaskModel


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


class CommandTask(Protocol):
    """An installed task as config has it, with what reads its inputs and writes its output.

    Attributes:
        name: the task's, as the user gave it.
        task: the task itself.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> Task: ...

    def read_words(self, words: Sequence[str]) -> dict[str, Any]:
        """Words of a command line, ``--name value``, as plain data for ``read``; not all inputs need be there. A value ``@FILE`` is the
        text of a file, and ``-`` is standard input. Raises ``RequestError`` for a word that is no input."""
        ...

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Texts, as a CSV file has them, as plain data for ``read``: an empty one is left out where the input has a default, a number, list
        or table is read as JSON, and a text that is no JSON is a list of one text where the input is a list."""
        ...

    def read(self, values: Mapping[str, Any]) -> Any:
        """Plain data as an instance of the task's ``inputs``. Raises ``RequestError`` with one sentence for each problem."""
        ...

    def plain(self, value: Any) -> Any:
        """An instance of the task's ``inputs`` or ``output`` as plain data that JSON can hold."""
        ...


class CommandModel(TaskModel, Protocol):
    """The model that a command opens: what a task can do with one, what it computes below the text, and the tasks that can run on it."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What it was loaded from: the result of the accelerator stages, where there are any."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What loading changed and a user should know, one sentence each."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Facts as plain data, among them ``loader``, ``loader_choice`` (how it was chosen, one sentence) and ``dtype``; sizes in bytes,
        counts in tokens."""
        ...

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Raw logits of every position: float32 [len(tokens), vocab_size]."""
        ...

    def stream(self, prompt: Prompt, **sampling: Any) -> Generator[str, None, None]:
        """As for a task; closing the generator before its end cancels the request."""
        ...

    def check_sampling(self, **sampling: Any) -> None:
        """Raise ``RequestError`` where ``generate`` would refuse these keyword arguments, whatever the prompt."""
        ...

    def task(self, name: str) -> CommandTask:
        """An installed task, as config has it. Raises ``PluginError`` where there is none (with the nearest name), or it is broken."""
        ...

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = ...) -> ReachedComponent:
        """As ``Context.component``, by the config with which the model was opened; the component may be used as long as the model."""
        ...

    def prefer_throughput(self) -> None:
        """Let as many sequences run at once as memory allows (64 at most), where config leaves that open. For a command that sends many
        requests together; call it before the model is used."""
        ...


class CommandContext(Context, Protocol):
    """The context of ``llmasos_command``; unlike others it is valid as long as the command runs."""

    def components(self, kind: str | None = None) -> Sequence[ComponentEntry]:
        """All installed components, or those of a kind, sorted by kind and name; from metadata alone."""
        ...

    def find(self, name: str) -> ComponentEntry:
        """The installed component that a user means by ``name``, or by ``kind:name`` where several kinds have the name.

        Raises:
            PluginError: nothing by that name is installed, or several components are meant; the message names them.
        """
        ...

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """The components that LLMasOS publishes, installed or not: kind -> name -> distribution."""
        ...

    def try_component(self, entry: ComponentEntry) -> str | None:
        """Import an installed component with its frameworks in a process of its own (seconds): why that fails, or None where it works."""
        ...

    def describe_system(self) -> Mapping[str, Any]:
        """What core knows of this machine and of what is installed, as plain data that JSON can hold; sizes in bytes.

        - ``cores``: ``physical`` and ``logical`` ones, and how many are ``usable`` by this process, which may be a fraction;
        - ``memory``: ``total``, ``available``, and the ``limit`` of a control group or None;
        - ``folders``: where ``config``, ``data`` and ``cache`` are;
        - ``problems``: a sentence for each installed distribution that is not sound;
        - ``missing``: a sentence for each published component that is not installed.
        """
        ...

    def processes(self) -> Sequence[Mapping[str, Any]]:
        """The processes of this user that have a model open, by ascending ``pid``, as plain data: ``memory``, ``models`` by name and
        ``observers``, as ``llmasos.resources.usage()`` gives them."""
        ...

    def python(self, code: str, *arguments: str, first: Sequence[Path] = ()) -> list[str]:
        """The command line, for ``subprocess``, of an interpreter that runs ``code`` with ``arguments`` in ``sys.argv``.

        It imports what this process can import, and before that from the folders ``first``; nothing of the working folder.
        """
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
            quiet: show no progress and no notes on standard error.

        Raises:
            LLMasOSError: the config is wrong, or the model cannot be fetched or loaded.
        """
        ...

    def measure(
        self,
        references: Sequence[str | None],
        suites: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        base: str | None = None,
        corpus: Path | None = None,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Report:
        """What suites measure of models, one after the other, each on its loader.

        Args:
            references: models as for ``model``; None is the config's default model.
            suites: name and options of each, in the order in which they measure.
            base: a reference to compare with; None: each model's own weights.
            corpus: a text file for ``MeasuredModel.windows``; None: English prose of the standard library.
            loader, config, settings, quiet: as for ``model``.

        Raises:
            LLMasOSError: a suite is not installed or refuses its options, which is told before a model is loaded; or as ``model`` does.
        """
        ...

    def save_preset(self, name: str, tables: Mapping[str, Any], *, replace: bool = False) -> Path:
        """Check a model that ``tables`` describe as config does (``model``, ``loader``, ``accelerate``, ``scheduler``, ``placement``), and
        keep it under a name, which then stands wherever a reference to a model does; returns its file. Nothing is fetched.

        Raises:
            ConfigError: a table or the name is refused, or the name is taken and ``replace`` is false.
            SourceError: ``model.source`` names no model.
        """
        ...

    def new_folder(self, output: Path) -> AbstractContextManager[Path]:
        """A folder to fill, which becomes ``output`` at the end of the ``with`` block: whole, or not at all where the block raises.

        Raises:
            RequestError: ``output`` is there already, and is no empty folder.
            AccelerationError: it cannot be written.
        """
        ...

    def answer(self, value: Any, text: str = "", *, as_json: bool = False, end: str = "\n") -> None:
        """Print the answer, or a part of it, on standard output at once: ``value``, plain data, as JSON, or else ``text`` and then ``end``.
        Control characters in the text are shown and not executed where the output is a terminal."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on standard output: drawn at a terminal, tab-separated lines in a pipe."""
        ...
