"""What a command under test gets: a context, and the model that it opens."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.commands import CommandModel, ComponentEntry
from llmasos_hookspecs.context import ReachedComponent
from llmasos_hookspecs.errors import ConfigError, PluginError, RequestError
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.reports import Measurement, Report, figure_table
from llmasos_hookspecs.suites import Figure, MeasuredModel, Suite, SuiteResult
from llmasos_hookspecs.tasks import TaskModel
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext
from llmasos_hookspecs.testing.suite import SandboxModel
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel


@attrs.frozen(kw_only=True)
class EchoInputs:
    """What ``EchoTask`` takes."""

    text: str
    times: int = 1


@attrs.frozen(kw_only=True)
class EchoOutput:
    """What ``EchoTask`` gives."""

    text: str


class EchoTask:
    """A ``CommandTask`` and the task in it: it asks the model for nothing, and says its text again so many times."""

    inputs: type = EchoInputs
    output: type = EchoOutput

    def __init__(self, name: str) -> None:
        self.name = name
        self.task = self

    def run(self, model: TaskModel, inputs: EchoInputs) -> EchoOutput:
        return EchoOutput(text=inputs.text * inputs.times)

    def read_words(self, words: Sequence[str]) -> dict[str, Any]:
        inputs = dict(zip(words[::2], words[1::2], strict=False))
        if len(words) % 2 or not inputs.keys() <= {"--text", "--times"}:
            raise RequestError(f"{' '.join(words)!r} are no inputs of the task {self.name}.")
        return self.read_texts({name[2:]: value for name, value in inputs.items()})

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        return {key: int(text) if key == "times" and text.isdigit() else text for key, text in texts.items() if text or key != "times"}

    def read(self, values: Mapping[str, Any]) -> EchoInputs:
        kinds = {"text": str, "times": int}
        for key, value in values.items():
            if type(value) is not kinds.get(key):
                raise RequestError(f"{key} is {value!r}, which the task {self.name} does not take.")
        if "text" not in values:
            raise RequestError("text must be set, to a string.")
        return EchoInputs(**values)

    def plain(self, value: Any) -> Any:
        return attrs.asdict(value)


class ScriptedCommandModel(ScriptedTaskModel):
    """A ``CommandModel``: its text is scripted, its logits are those of a tiny random checkpoint, and every task is an ``EchoTask``."""

    notes: tuple[str, ...] = ()
    #: ``component`` of the context that opened it.
    reach: Callable[[str, str, Mapping[str, Any]], ReachedComponent]

    @functools.cached_property
    def checkpoint(self) -> TinyCheckpoint:
        return tiny_checkpoint()

    @functools.cached_property
    def _decoder(self) -> ReferenceDecoder:
        return ReferenceDecoder(self.checkpoint)

    def describe(self) -> Mapping[str, Any]:
        facts = {"source": "scripted", "loader": 'loader "scripted" (scripted 1.0)', "loader_choice": "It is scripted.", "dtype": "float32"}
        return {"name": "default", "state": "loaded", **facts, "media": ["image"], "context_length": self.context_length}

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        return self._decoder.logits(tokens)

    def check_sampling(self, **sampling: Any) -> None:
        try:
            self.read_sampling(sampling)
        except TypeError as error:
            raise RequestError(f"{error}.") from error

    def task(self, name: str) -> EchoTask:
        return EchoTask(name)

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = MappingProxyType({})) -> ReachedComponent:
        return self.reach(kind, use, options)

    def prefer_throughput(self) -> None:
        pass


@attrs.define(eq=False, kw_only=True)
class SandboxCommandContext(SandboxContext):
    """A ``CommandContext``: a scripted model, a few components that are not there, and a machine that is made up.

    Attributes:
        scripted: every model that is opened.
        asked: the references that were.
        suites: what ``measure`` finds by name, on tiny random models; any other name stands for a suite with one figure, the size of the
            vocabulary.
        presets: what ``save_preset`` kept.
    """

    scripted: ScriptedCommandModel = attrs.field(factory=ScriptedCommandModel)
    asked: list[str | None] = attrs.field(factory=list)
    suites: Mapping[str, Suite] = attrs.field(factory=dict)
    presets: dict[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def components(self, kind: str | None = None) -> Sequence[ComponentEntry]:
        found = [
            ComponentEntry(kind="loader", name="onnx", module="llmasos_backend_onnx", distribution="llmasos-backend-onnx", version="1.0"),
            ComponentEntry(kind="scheduler", name="fifo", module="llmasos_sched_fifo", distribution="llmasos-sched-fifo", version="1.0"),
        ]
        return [each for each in found if kind in (None, each.kind)]

    def find(self, name: str) -> ComponentEntry:
        for each in self.components():
            if name in (each.name, f"{each.kind}:{each.name}"):
                return each
        raise PluginError(f'No component "{name}" is installed.')

    def published(self) -> Mapping[str, Mapping[str, str]]:
        return {"loader": {"onnx": "llmasos-backend-onnx"}, "scheduler": {"fair": "llmasos-sched-fair", "fifo": "llmasos-sched-fifo"}}

    def try_component(self, entry: ComponentEntry) -> str | None:
        return None

    def describe_system(self) -> Mapping[str, Any]:
        folders = {name: str(self.root / name) for name in ("config", "data", "cache")}
        cores, memory = {"physical": 1, "logical": 2, "usable": 1.5}, {"total": 8 << 30, "available": 64 << 20, "limit": None}
        return {"cores": cores, "memory": memory, "folders": folders, "problems": [], "missing": []}

    def processes(self) -> Sequence[Mapping[str, Any]]:
        memory = {"used": 3 << 20, "limit": 1 << 30, "weights": 2 << 20, "kv": 1 << 20, "waiting": 0}
        counts = {"running": 1, "waiting": 0, "finished": 4, "kv_used": 10, "kv_cached": 10, "kv_capacity": 80}
        model = {"state": "loaded", "weight_bytes": 2 << 20, "kv_bytes": 1 << 20, **counts}
        return [{"pid": 4321, "memory": memory, "models": {"default": model}, "observers": []}]

    def python(self, code: str, *arguments: str, first: Sequence[Path] = ()) -> list[str]:
        path = [*map(str, first), *(place for place in sys.path if os.path.isabs(place))]
        return [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {path!r}\n{code}", *arguments]

    @contextlib.contextmanager
    def model(
        self,
        reference: str | None = None,
        *,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Iterator[CommandModel]:
        self.asked.append(reference)
        self.scripted.reach = self.component
        yield self.scripted

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
        self.asked += references
        made = {use: self.suites.get(use, _VocabularySuite()) for use, _ in suites}
        models: dict[str, Measurement] = {}
        for seed, reference in enumerate(references):
            label = reference or "default"
            model = SandboxModel(checkpoint=tiny_checkpoint(seed=seed), label=label)
            results = {use: suite.measure(model) for use, suite in made.items()}
            models[label] = Measurement(results=results, backend=model.backend, dtype="float32")
        columns, rows = figure_table({label: found.results for label, found in models.items()})
        return Report(title="Report", text="Random text.", columns=columns, rows=rows, models=models, corpus="random")

    def save_preset(self, name: str, tables: Mapping[str, Any], *, replace: bool = False) -> Path:
        if not name.replace("-", "").isalnum() or (name in self.presets and not replace):
            raise ConfigError(f"{name!r} cannot name a preset, or is one already.")
        self.presets[name] = tables
        return self.root / f"{name}.toml"

    @contextlib.contextmanager
    def new_folder(self, output: Path) -> Iterator[Path]:
        if output.exists():
            raise RequestError(f"{output} exists already.")
        partial = output.with_name(f".{output.name}.partial")
        partial.mkdir()
        try:
            yield partial
            partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def answer(self, value: Any, text: str = "", *, as_json: bool = False, end: str = "\n") -> None:
        if as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False))
        else:
            print(text, end=end)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in (columns, *rows):
            print("\t".join(row))


class _VocabularySuite:
    """Stands for a suite that is not there."""

    def measure(self, model: MeasuredModel) -> SuiteResult:
        return SuiteResult(figures=(Figure(name="vocabulary", value=model.checkpoint.decoder.vocab_size, digits=0),))
