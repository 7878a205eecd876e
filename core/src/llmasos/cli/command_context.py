"""What an installed command may use: the model that it opens, the tasks that run on it, the components here, and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from llmasos.cli.console import print_json, print_result, print_table
from llmasos.cli.task_inputs import from_texts, from_words, make_inputs
from llmasos_hookspecs import RequestError
from llmasos_options import unstructure

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos.api.pipeline import Pipeline
    from llmasos.system.discovery import InstalledComponent
    from llmasos_hookspecs import CommandModel, CommandTask, ComponentEntry, ReachedComponent, Report, Task


class CommandContext:
    """Implements ``llmasos_hookspecs.CommandContext`` around the context that every hook gets."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def components(self, kind: str | None = None) -> Sequence[ComponentEntry]:
        from llmasos.system.discovery import registry

        return [_announced(entry) for entry in registry().entries(kind)]

    def find(self, name: str) -> ComponentEntry:
        from llmasos.system.discovery import registry

        return _announced(registry().named(name))

    def published(self) -> Mapping[str, Mapping[str, str]]:
        from llmasos_config.catalog import published

        return published()

    def try_component(self, entry: ComponentEntry) -> str | None:
        from llmasos.system.diagnosis import try_component

        return try_component(entry.kind, f"{entry.distribution}:{entry.name}")

    def describe_system(self) -> Mapping[str, Any]:
        from llmasos.system.diagnosis import describe_system

        return describe_system()

    def processes(self) -> Sequence[Mapping[str, Any]]:
        from llmasos.compose.status import read_status

        return list(read_status())

    def python(self, code: str, *arguments: str, first: Sequence[Path] = ()) -> list[str]:
        from llmasos_isolation import code_command

        return code_command(code, *arguments, first=first)

    @contextmanager
    def model(
        self,
        reference: str | None = None,
        *,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Iterator[CommandModel]:
        from llmasos.cli.options import open_pipeline

        pipeline, model = open_pipeline(config, list(settings), model=reference, loader=loader, quiet=quiet)
        with pipeline:
            opened: Any = OpenedModel(pipeline, model)
            yield opened

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
        from llmasos.api.side_by_side import measure_side_by_side
        from llmasos.cli.options import open_pipeline
        from llmasos_config import ComponentConfig

        def opened(reference: str | None) -> tuple[Pipeline, LanguageModel]:
            return open_pipeline(config, list(settings), model=reference, loader=loader, quiet=quiet)

        asked = [ComponentConfig(use, options, f"suites[{index}]") for index, (use, options) in enumerate(suites)]
        return measure_side_by_side(references, opened, asked, base=base, corpus=corpus)

    def save_preset(self, name: str, tables: Mapping[str, Any], *, replace: bool = False) -> Path:
        from llmasos.api.presets import save_preset

        return save_preset(name, tables, replace=replace)

    @contextmanager
    def new_folder(self, output: Path) -> Iterator[Path]:
        from llmasos.acceleration.export import appearing, check_output

        for problem in check_output(output):
            raise RequestError(problem)
        with appearing(output) as folder:
            yield folder

    def answer(self, value: Any, text: str = "", *, as_json: bool = False, end: str = "\n") -> None:
        if as_json:
            print_json(value)
        else:
            print_result(text, end=end)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print_table(columns, rows)


class OpenedModel:
    """Implements ``llmasos_hookspecs.CommandModel`` around a model of a pipeline."""

    def __init__(self, pipeline: Pipeline, model: LanguageModel) -> None:
        self._pipeline = pipeline
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def check_sampling(self, **sampling: Any) -> None:
        from llmasos.compose.generation_params import GenerationParams

        GenerationParams.of(sampling)

    def task(self, name: str) -> CommandTask:
        return OpenedTask(name, self._pipeline.task(name))

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = MappingProxyType({})) -> ReachedComponent:
        return self._pipeline.component(kind, use, options)

    def prefer_throughput(self) -> None:
        self._pipeline.prefer_throughput(model=self._model.name)


@attrs.frozen
class OpenedTask:
    """Implements ``llmasos_hookspecs.CommandTask``."""

    name: str
    task: Task

    def read_words(self, words: Sequence[str]) -> dict[str, Any]:
        return from_words(self.task.inputs, words)

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        return from_texts(self.task.inputs, texts)

    def read(self, values: Mapping[str, Any]) -> Any:
        return make_inputs(self.task.inputs, values)

    def plain(self, value: Any) -> Any:
        return unstructure(value)


def _announced(entry: InstalledComponent) -> ComponentEntry:
    """What a command is told of an installed component."""
    from llmasos_hookspecs import ComponentEntry

    return ComponentEntry(**{field.name: getattr(entry, field.name) for field in attrs.fields(ComponentEntry)})
