"""A sandbox that runs one plugin's hooks without core."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Any, Self

import attrs
import numpy as np
import numpy.typing as npt
import pluggy

from llmasos_hookspecs import specs
from llmasos_hookspecs.acceleration import AccelerationResult
from llmasos_hookspecs.adapters import Adapter
from llmasos_hookspecs.apart import ApartLimits
from llmasos_hookspecs.checkpoint import Checkpoint, CheckpointWriter, Tokenizer
from llmasos_hookspecs.component import Component
from llmasos_hookspecs.context import WORKING, EngineLimits
from llmasos_hookspecs.errors import AccelerationError, CheckpointError, PluginError, SourceError, UnsupportedModel
from llmasos_hookspecs.kinds import GROUPS, KINDS
from llmasos_hookspecs.markers import PROJECT
from llmasos_hookspecs.tensors import QuantizedTensor, Tensor
from llmasos_hookspecs.testing.apart import run_child
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.safetensors import load_safetensors, save_safetensors
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer, tokenizer_files


class PluginSandbox:
    """One component's module, registered alone against the hook specifications.

    Raises ``PluginError`` where the module has no usable ``llmasos_component``, or pluggy refuses one of its hooks.
    """

    def __init__(self, module: ModuleType | str) -> None:
        self.module = importlib.import_module(module) if isinstance(module, str) else module
        self._hooks = pluggy.PluginManager(PROJECT)
        self._hooks.add_hookspecs(specs)
        try:
            self._hooks.register(self.module)
            self._hooks.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{self.module.__name__} has a hook that does not fit its specification: {error}") from error
        component = self._hooks.hook.llmasos_component()
        if not isinstance(component, Component):
            raise PluginError(f"{self.module.__name__} returned {component!r} from llmasos_component, and it must return a Component.")
        self.component: Component = component

    @classmethod
    def of_entry(cls, kind: str, name: str) -> PluginSandbox:
        """The installed component ``name`` of a kind, found through its entry point."""
        found = [entry for entry in metadata.entry_points(group=GROUPS[kind]) if entry.name == name]
        if not found:
            raise PluginError(f"No installed distribution offers the {kind} {name!r}; install the plugin first: pip install -e .")
        return cls(found[0].value)

    def options(self, **values: Any) -> Any:
        """An instance of the component's options."""
        return self.component.options(**values)

    def has(self, hook: str) -> bool:
        """Whether the module implements the hook."""
        return bool(getattr(self._hooks.hook, hook).get_hookimpls())

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """The module's hook functions by name."""
        return {
            name: function
            for name, function in inspect.getmembers(self.module, inspect.isfunction)
            if getattr(function, f"{PROJECT}_impl", None) is not None
        }

    def call(self, hook: str, **arguments: Any) -> Any:
        """What the hook returns; ``PluginError`` where the module does not implement it."""
        if not self.has(hook):
            raise PluginError(f"{self.module.__name__} does not implement {hook}.")
        return getattr(self._hooks.hook, hook)(**arguments)


class SandboxProgress:
    """A progress display that counts: ``done`` of ``total``, which is None where it was not told; with its ``label`` and ``unit``."""

    def __init__(self, total: float | None = None, label: str = "", unit: str = "") -> None:
        self.total = total
        self.label = label
        self.unit = unit
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount


class SandboxStore:
    """A model store in one folder, for one process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fills = 0
        self._digests: dict[str, str] = {}

    def find(self, key: str) -> Path | None:
        folder = self.root / _safe(key)
        return folder if folder.is_dir() else None

    def add(self, key: str, fill: Callable[[Path], None], *, source: str, license_id: str = "") -> Path:
        found = self.find(key)
        if found is not None:
            return found
        self.fills += 1
        partial = self.root / f"{_safe(key)}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        fill(partial)
        for working in sorted(partial.rglob(f"{WORKING}*"), reverse=True):
            shutil.rmtree(working) if working.is_dir() else working.unlink()
        if not any(partial.iterdir()):
            raise SourceError(f"The source filled nothing into the store for {key!r}; write the model into the folder that fill is given.")
        return partial.rename(self.root / _safe(key))

    def fetch(self, key: str, fill: Callable[[Path], tuple[str, str]], *, waiting: Callable[[], None] | None = None) -> Path:
        def checked(folder: Path) -> None:
            returned: Any = fill(folder)
            if not (isinstance(returned, tuple) and [type(part) for part in returned] == [str, str]):
                raise PluginError(f"What fills {key!r} returned {returned!r}; return the exact source and the licence, as text.")

        return self.add(key, checked, source=key)

    def check_digest(self, name: str, digest: str) -> None:
        if self._digests.setdefault(name, digest) != digest:
            raise SourceError(f"{name} has SHA-256 {digest}, and it was {self._digests[name]} when it was first fetched.")


@attrs.define(eq=False, kw_only=True)
class SandboxContext:
    """A ``Context`` over one temporary folder. Notes are kept in ``notes``, progress displays in ``displays``, and what ran in a
    child process in ``ran_apart``; calibration is random text of a fixed seed. ``lends_cache``: False where a sealed model is handled.
    ``configured``: kind -> import name of the component that ``component`` finds where it is not told which."""

    root: Path
    name: str = "under-test"
    seed: int = 0
    limits: EngineLimits = attrs.field(factory=EngineLimits)
    offline: bool = True
    allow_pickle: bool = False
    base: Checkpoint | None = None
    adapters: Mapping[str, Adapter] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)
    displays: list[SandboxProgress] = attrs.field(factory=list)
    ran_apart: list[str] = attrs.field(factory=list)
    vocab_size: int = 256
    lends_cache: bool = True
    configured: Mapping[str, str] = attrs.field(factory=dict)
    _store: SandboxStore | None = attrs.field(default=None, init=False)

    @property
    def cache(self) -> Path:
        if not self.lends_cache:
            raise UnsupportedModel("The plugin keeps files that it derives from a model, and this one is sealed.")
        folder = self.root / "cache"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def store(self) -> SandboxStore:
        if self._store is None:
            self._store = SandboxStore(self.root / "store")
        return self._store

    @contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SandboxProgress]:
        display = SandboxProgress(total, label, unit)
        self.displays.append(display)
        yield display

    def note(self, message: str) -> None:
        self.notes.append(message)

    def writer(self, checkpoint: Checkpoint, output: Path) -> CheckpointWriter:
        return SandboxWriter(checkpoint, output)

    def calibration(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        return np.random.default_rng(self.seed + 1).integers(0, self.vocab_size, (windows, length), dtype=np.int32)

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = MappingProxyType({})) -> SandboxComponent:
        if use:
            return SandboxComponent(kind, use, PluginSandbox.of_entry(kind, use), options, self)
        if kind not in self.configured:
            raise PluginError(f"No {kind} is configured; give its module to SandboxContext(configured=...).")
        return SandboxComponent(kind, self.configured[kind], PluginSandbox(self.configured[kind]), options, self)

    def tokenizer(self, folder: Path) -> Tokenizer:
        """The byte tokenizer: of a folder into which its files (``TinyCheckpoint.text_files``) were written, unchanged."""
        try:
            found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} holds no tokenizer ({error}).") from error
        if found != tokenizer_files()["tokenizer.json"]:
            raise CheckpointError(f"{folder} holds another tokenizer than that of tiny_checkpoint.")
        return ByteTokenizer(self.vocab_size)

    def load_checkpoint(self, path: Path) -> Checkpoint:
        return read_folder(path)

    def apart(self, function: str, *arguments: Any, limits: ApartLimits | None = None) -> Any:
        self.ran_apart.append(function)
        return run_child(function, arguments, limits or ApartLimits())

    def file_digest(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class SandboxComponent:
    """A ``ReachedComponent``: another plugin that is installed where the tests run."""

    def __init__(self, kind: str, use: str, sandbox: PluginSandbox, options: Mapping[str, Any], context: SandboxContext) -> None:
        self.label = f'{kind} "{use}"'
        self.options = sandbox.options(**options)
        self._kind, self._sandbox, self._context = kind, sandbox, context

    @property
    def component(self) -> Component:
        return self._sandbox.component

    def make(self, **arguments: Any) -> Any:
        return self._sandbox.call(KINDS[self._kind].hooks[0], options=self.options, context=self._context, **arguments)


class SandboxWriter:
    """A ``CheckpointWriter`` that keeps quantised tensors as their parts (``name:codes``, ``name:scales``, ...), which only
    ``read_folder`` reads back."""

    def __init__(self, checkpoint: Checkpoint, output: Path) -> None:
        self._input = checkpoint
        self._output = output
        self._config = dict(checkpoint.config)
        self._tensors: dict[str, Tensor] = {}
        self._skipped: dict[str, str] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            return
        partial = self._output.with_name(self._output.name + ".partial")
        partial.mkdir(parents=True)
        parts: dict[str, npt.NDArray[Any]] = {}
        forms: dict[str, dict[str, int]] = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, QuantizedTensor):
                forms[name] = {"bits": tensor.bits, "group": tensor.group}
                parts |= {f"{name}:{part}": value for part in _PARTS if (value := getattr(tensor, part)) is not None}
            else:
                parts[name] = tensor if tensor.dtype.name in ("float32", "float16") else tensor.astype(np.float32)
        save_safetensors(partial / "model.safetensors", parts)
        files: dict[str, Any] = {"config.json": self._config, "quantized.json": forms, **tokenizer_files()}
        for file, contents in files.items():
            (partial / file).write_text(json.dumps(contents, indent=2), encoding="utf-8")
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(partial.iterdir())}
        manifest = {**self._input.manifest, _WRITTEN: digests}
        (partial / "llmasos.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        partial.rename(self._output)
        self._closed = True

    def set_config(self, changes: Mapping[str, Any]) -> None:
        self._config.update(changes)

    def add(self, name: str, tensor: Tensor) -> None:
        if self._closed:
            raise AccelerationError(f"Tensor {name!r} was added outside the writer's with block; add it inside.")
        if name in self._tensors:
            raise AccelerationError(f"Tensor {name!r} was added twice; add every tensor once.")
        if isinstance(tensor, QuantizedTensor):
            if not name.endswith(".weight"):
                raise AccelerationError(f"Tensor {name!r} is quantised, and only weights (a name that ends in .weight) can be stored so.")
        elif (kind := np.asarray(tensor).dtype.name) not in _WEIGHT_TYPES:
            raise AccelerationError(f"Tensor {name!r} is of type {kind}, and weights are float32, float16 or bfloat16.")
        self._tensors[name] = tensor if isinstance(tensor, QuantizedTensor) else np.asarray(tensor)

    def skip(self, name: str, reason: str) -> None:
        self._skipped[name] = reason

    def result(self, **report: Any) -> AccelerationResult:
        if not self._closed:
            raise AccelerationError("result() was called inside the with block; call it after the block has ended.")
        old, new = set(self._input.names()), set(self._tensors)
        changed = {name for name in old & new if not equal_tensors(self._input.tensor(name), self._tensors[name])}
        return AccelerationResult(path=self._output, touched=tuple(sorted(old ^ new | changed)), skipped=self._skipped, report=report)


#: Types that weights may have; float64 is stored as float32.
_WEIGHT_TYPES = ("float32", "float16", "bfloat16", "float64")
#: Key of the manifest under which a writer notes the digest of each file.
_WRITTEN = "written"
_PARTS = ("codes", "scales", "zeros", "minimums")


def read_folder(path: Path) -> TinyCheckpoint:
    """Open a folder that ``TinyCheckpoint.write`` or ``SandboxWriter`` wrote. Raises ``CheckpointError`` where files are missing, or were
    changed or added after the writer had closed."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        stored = load_safetensors(path / "model.safetensors")
    except OSError as error:
        raise CheckpointError(f"{path} is not a checkpoint folder ({error}).") from error
    forms_file, manifest_file = path / "quantized.json", path / "llmasos.json"
    forms = json.loads(forms_file.read_text(encoding="utf-8")) if forms_file.exists() else {}
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.exists() else {}
    if (digests := manifest.get(_WRITTEN)) is not None:
        found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir() if file.name != "llmasos.json"}
        changed = sorted(name for name in {*found, *digests} if found.get(name) != digests.get(name))
        if changed:
            raise CheckpointError(f"{path / changed[0]} is not as the writer left it; change a checkpoint inside the writer's with block.")
    tensors: dict[str, Tensor] = {name: array for name, array in stored.items() if ":" not in name}
    for name, form in forms.items():
        parts: dict[str, Any] = {part: stored[f"{name}:{part}"] for part in _PARTS if f"{name}:{part}" in stored}
        tensors[name] = QuantizedTensor(bits=form["bits"], group=form["group"], **parts)
    return TinyCheckpoint(config=config, tensors=tensors, path=path, manifest=manifest)


def equal_tensors(a: Tensor, b: Tensor) -> bool:
    """Whether two stored tensors are bitwise identical."""
    if isinstance(a, QuantizedTensor) or isinstance(b, QuantizedTensor):
        if not (isinstance(a, QuantizedTensor) and isinstance(b, QuantizedTensor)) or (a.bits, a.group) != (b.bits, b.group):
            return False
        pairs = [(getattr(a, part), getattr(b, part)) for part in _PARTS]
        return all(x is y or (x is not None and y is not None and np.array_equal(x, y)) for x, y in pairs)
    return bool(a.dtype == b.dtype and np.array_equal(a, b))


def _safe(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in key)
