"""The context: what a plugin may use of core while one of its hooks runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from llmasos_hookspecs.checkpoint import Checkpoint, CheckpointWriter, Tokenizer
from llmasos_hookspecs.component import Component

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmasos_hookspecs.adapters import Adapter
    from llmasos_hookspecs.apart import ApartLimits


#: Files and folders whose names begin so are the working state of what fills an entry of the store, and never become part of it.
WORKING: Final = ".partial"


class Progress(Protocol):
    """A progress display that is running."""

    def advance(self, amount: float = 1) -> None:
        """Move on by ``amount`` of the total's unit."""
        ...


class ModelStore(Protocol):
    """The user's folder of fetched models. Entries are immutable and appear whole or not at all, under a lock between processes."""

    def find(self, key: str) -> Path | None:
        """The folder stored under ``key``, if it is there."""
        ...

    def add(self, key: str, fill: Callable[[Path], None], *, source: str, license_id: str = "") -> Path:
        """Call ``fill`` on a temporary folder and make that the entry ``key``. Of two concurrent processes one fills, the other waits and
        gets the same entry. The temporary folder is the same after a crash, so that ``fill`` can resume; what has a name that begins
        with ``WORKING`` is removed at the end."""
        ...

    def fetch(self, key: str, fill: Callable[[Path], tuple[str, str]], *, waiting: Callable[[], None] | None = None) -> Path:
        """``add`` for a ``fill`` that learns while it works where the files come from exactly (a commit, a wheel's digest) and the
        licence's SPDX identifier (empty: not known), and returns both. ``waiting`` is called once where another process fills."""
        ...

    def check_digest(self, name: str, digest: str) -> None:
        """Hold ``name``, a file that an index promises never to change, to the SHA-256 that it had when it was first seen here, even if
        the model was removed since. Raises ``SourceError`` where it is another one."""
        ...


@attrs.frozen(kw_only=True)
class EngineLimits:
    """The limits of an engine.

    Attributes:
        threads: compute threads; None: the loader's own choice.
        max_sequences: slots that core will open at once.
        context_length: tokens a slot must hold; None: the model's own, as far as memory allows.
        memory: bytes for weights and KV together; None: no bound.
    """

    threads: int | None = None
    max_sequences: int = 8
    context_length: int | None = None
    memory: int | None = None


class ReachedComponent(Protocol):
    """Another component, for the one that asked for it.

    Attributes:
        label: how messages name it: ``guard "privacy" (llmasos-guard-privacy 0.1.0)``.
        component: its description.
        options: an instance of its options class.
    """

    @property
    def label(self) -> str: ...
    @property
    def component(self) -> Component: ...
    @property
    def options(self) -> Any: ...

    def make(self, **arguments: Any) -> Any:
        """Call the hook of its kind with these options, a context of its own, and ``arguments``: what the hook takes besides.

        ``context.component("task", "translate").make()`` is a ``Task``, and ``context.component("loader", "torch").make(checkpoint=found)``
        an ``Engine``. Raises ``PluginError`` where the arguments are not those of the hook, or the component fails.
        """
        ...


class Context(Protocol):
    """Passed to every hook, and valid only while the hook runs. A format may use its own as long as the checkpoint that it returned, and a
    task ``component`` as long as it is there.

    Attributes:
        name: the component's name in config.
        cache: a folder of this plugin's own for derived data; may be deleted between runs.
        seed: the pipeline's seed, for all that is random.
        limits: for loaders.
        store: for sources.
        offline: no network may be used.
        allow_pickle: the user allowed pickle files (still ``weights_only``).
        adapters: for loaders whose component says that they compute adapters, those of the model by name.
        base: for accelerators, the checkpoint that the first stage started from (a teacher for distillation).
    """

    @property
    def name(self) -> str: ...
    @property
    def cache(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    @property
    def limits(self) -> EngineLimits: ...
    @property
    def store(self) -> ModelStore: ...
    @property
    def offline(self) -> bool: ...
    @property
    def allow_pickle(self) -> bool: ...
    @property
    def adapters(self) -> Mapping[str, Adapter]: ...
    @property
    def base(self) -> Checkpoint | None: ...

    def progress(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Progress]:
        """Show that something takes time; ``unit`` is ``B`` for bytes."""
        ...

    def note(self, message: str) -> None:
        """Show the user a note of one sentence."""
        ...

    def writer(self, checkpoint: Checkpoint, output: Path) -> CheckpointWriter:
        """For accelerators: writes the new checkpoint; atomic."""
        ...

    def calibration(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        """For accelerators: token windows [windows, length] of calibration text, which never overlaps the evaluation text."""
        ...

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = ...) -> ReachedComponent:
        """Another installed component: ``use`` and ``options`` as config would give them; options left out have their defaults. Without
        ``use``, for the kinds with a table of their own (``[transcriber]``, ``[speaker]``): what config names, else the usual one.

        Raises:
            PluginError: no such component is installed (with the package to install), or it is broken.
            ConfigError: it refuses the options.
        """
        ...

    def tokenizer(self, folder: Path) -> Tokenizer:
        """For formats: the tokenizer that the files of a Hugging Face tokenizer in ``folder`` describe (``tokenizer.json`` with
        ``tokenizer_config.json``, or what an installed format reads by ``llmasos_read_tokenizer``). A format that keeps them otherwise may
        write them into ``cache`` first, or return a ``Tokenizer`` of its own.

        Raises:
            CheckpointError: the folder holds no tokenizer, or a damaged one.
        """
        ...

    def load_checkpoint(self, path: Path) -> Checkpoint:
        """Open a checkpoint that the plugin wrote or was given."""
        ...

    def apart(self, function: str, *arguments: Any, limits: ApartLimits | None = None) -> Any:
        """Call the function ``module:name`` of this plugin on an untrusted file, in a child process of its own with resource limits.

        The child has nothing of the working folder and of the environment's secrets; where the system allows, it can write no file, make
        no network connection and start no program. ``arguments`` and the result are plain data: None, bool, int, float, str, bytes, and
        lists and dictionaries of it; paths are absolute, as text. A start takes 0.2 seconds and what the function imports:
        ``inspect_once`` spares it for a file that passed before.

        Raises:
            LLMasOSError: of the class that the function raised, with its sentence.
            ApartError: the function raised another error, took more than it may, or crashed.
        """
        ...

    def file_digest(self, path: Path) -> str:
        """Hexadecimal SHA-256 of a file; one of unchanged device, inode, size and times is read once. Raises ``OSError``."""
        ...
