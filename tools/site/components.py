"""Reference of all that config may hold: the config's own keys, and the options of every component of this project."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tools.site.words import cell, table

from llmasos import Pipeline
from llmasos.system.components import load_component
from llmasos.system.discovery import InstalledComponent, registry
from llmasos_config.tables import GlobalTable, ModelTable, ResourcesConfig
from llmasos_hookspecs import KINDS
from llmasos_options import describe

#: What each kind does, in the words of its page.
_ABOUT: Mapping[str, str] = {
    "source": "A source fetches the files that a reference names. Options stand in `[sources.NAME]`.",
    "format": "A format reads checkpoints of files that core does not read. Options stand in `[formats.NAME]`.",
    "loader": "A loader makes an engine of a checkpoint. Options stand in `[loader]`, or in `[models.NAME.loader]`.",
    "accelerator": "An accelerator turns one checkpoint into another. Options stand in `[[accelerate]]` tables, or behind `--stage NAME:`.",
    "scheduler": "A scheduler orders requests. Options stand in `[scheduler]`, or in `[models.NAME.scheduler]`.",
    "task": "A task has typed inputs and outputs over a model. Options stand in `[tasks.NAME]`; inputs are arguments of a call.",
    "suite": "A suite measures models. Options stand in a `[[suites]]` table, or behind `--suite NAME:`.",
    "observer": "An observer is told of requests and steps. Options stand in an `[[observers]]` table.",
    "placement": "A placement says where replicas run. Options stand in `[placement]`.",
    "server": "A server gives a pipeline to clients. Options stand in a `[[server]]` table.",
    "access": "Access control says who a client is and what it may do. Options stand in `[access]`.",
    "guard": "A guard lets a text pass, replaces it or blocks it. Options stand in a `[[guard]]` table.",
    "transcriber": "A transcriber writes down what is said. Options stand in `[transcriber]`.",
    "speaker": "A speaker says texts aloud. Options stand in `[speaker]`.",
}


def own_components(kind: str) -> list[InstalledComponent]:
    """The installed components of a kind that packages of this project bring."""
    return [entry for entry in registry().entries(kind) if entry.distribution.startswith("llmasos")]


def options_table(options: type, word: str = "option") -> str:
    """The fields of an attrs class of options as a table; empty where it has none."""
    rows = [
        [f"`{field.key}`", cell(field.type), "required" if field.required else cell(_value(field.default), code=True), cell(field.help)]
        for field in describe(options)
    ]
    return table([word, "what it may be", "default", "meaning"], rows)


def _value(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def kind_page(kind: str) -> str:
    """The page of a kind: each component of this project with its summary, its options and examples."""
    entries = own_components(kind)
    lines = [f"# {KINDS[kind].plural.capitalize()}", "", _ABOUT[kind], ""]
    tasks = _tasks([entry.name for entry in entries]) if kind == "task" else {}
    for entry in entries:
        component = load_component(entry).component
        package = f"[{entry.distribution}](../../packages/{entry.distribution}.md)"
        lines += [f"## {kind} `{entry.name}`", "", f"{component.summary} Package {package}.", ""]
        if task := tasks.get(entry.name):
            lines += ["Inputs:", "", options_table(task.inputs) or "None.", "", "Output:", "", options_table(task.output) or "None.", ""]
        if found := options_table(component.options):
            lines += ["Options:", "", found, ""]
        elif kind != "task":
            lines += ["It has no options.", ""]
        if component.exports is not None:
            lines += [f"Options of `llmasos models export MODEL --{entry.name} VALUE`:", "", options_table(component.exports), ""]
        if component.examples:
            lines += ["```text", *component.examples, "```", ""]
    return "\n".join(lines) + "\n"


def _tasks(names: Iterable[str]) -> dict[str, Any]:
    """The tasks by name, with their classes of inputs and output; no model is loaded."""
    with Pipeline.from_config({}) as pipeline:
        return {name: pipeline.task(name) for name in names}


def kinds_with_options() -> list[str]:
    """The kinds that have a page: those whose components config names, and of which this project has one."""
    return [kind for kind in KINDS if kind in _ABOUT and own_components(kind)]


def config_page() -> str:
    """The page of the config's own keys, table by table."""
    lines = [
        "# Config",
        "",
        "A pipeline is one TOML file: `llmasos.toml` of the working folder, the file that `LLMASOS_CONFIG` names, or `--config FILE`.",
        "`--set path=value` overrides one value. `llmasos config check` tells every problem, `llmasos config show` what holds, and",
        "`llmasos config schema` prints the JSON Schema of all installed plugins, for editors.",
        "",
        "## Top level",
        "",
        options_table(GlobalTable, "key"),
        "",
        "## `[model]`",
        "",
        options_table(ModelTable, "key"),
        "",
        "## `[resources]`",
        "",
        'A size is a number of bytes, or a text such as `"6GiB"`.',
        "",
        options_table(ResourcesConfig, "key"),
        "",
        "## Tables of components",
        "",
        "Each names a component by `use`, and its options beside it; the pages of the kinds list them.",
        "",
        table(
            ["table", "what it names"],
            [
                [f"`{name}`", meaning]
                for name, meaning in (
                    ("[loader]", "the loader; `auto` takes the best installed one that takes the model"),
                    ("[[accelerate]]", "a stage; in the order of the tables"),
                    ("[scheduler]", "the scheduler"),
                    ("[placement]", "where the replicas of `model.replicas` run"),
                    ("[tasks.NAME]", "options of the task NAME, or with `use` a task under another name"),
                    ("[sources.NAME]", "options of the source NAME"),
                    ("[formats.NAME]", "options of the format NAME"),
                    ("[[suites]]", "a suite that measures each stage"),
                    ("[[observers]]", "an observer"),
                    ("[[guard]]", "a guard; texts pass them in the order of the tables"),
                    ("[[server]]", "a server that `llmasos serve` runs"),
                    ("[access]", "who may use the servers"),
                    ("[transcriber]", "what writes recordings down"),
                    ("[speaker]", "what says texts aloud"),
                    ("[models.NAME]", "a further model, with the keys of `[model]` and its own `loader`, `accelerate` and `scheduler`"),
                )
            ],
        ),
        "",
    ]
    return "\n".join(lines) + "\n"


def option_names() -> set[str]:
    """Every option that a reader may look for: of all components, of exports, and of the config's own tables."""
    found = {field.key for own in (GlobalTable, ModelTable, ResourcesConfig) for field in describe(own)}
    for kind in kinds_with_options():
        for entry in own_components(kind):
            component = load_component(entry).component
            found |= {field.key for field in describe(component.options)}
            if component.exports is not None:
                found |= {field.key for field in describe(component.exports)}
    return found
