"""The tools that config names, through a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos_app_assistant.task import Inputs
from llmasos_hookspecs import ConfigError, PluginError
from llmasos_hookspecs.testing import ScriptedTaskModel

from .scripted_tools import model_of, results


def configured(tmp_path: Path, **options: Any) -> Mapping[str, Any]:
    return {"model": {"source": "smollm2"}, "tasks": {"assist": {"folder": str(tmp_path / "kept"), **options}}}


def test_each_kind_of_tool_is_there_once_it_is_named(tmp_path: Path) -> None:
    """Its calls are run as the policy says; a task runs on the model that calls it."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "otters.md").write_text("Otters sleep in the river.", encoding="utf-8")
    options = {
        "calculator": True,
        "clock": True,
        "recall": True,
        "files": [str(tmp_path / "notes")],
        "documents": [str(tmp_path / "notes")],
        "functions": ["llmasos_app_assistant.tools.calculator:calculate"],
        "tasks": ["generate"],
        "policy": [
            {"tool": "calculate", "arguments": {"expression": "1*"}, "action": "allow"},
            {"tool": "clock", "action": "deny"},
        ],
        "bounds": {"steps": 3},
    }
    said = [
        [
            ("calculator", {"expression": "2 * 3"}),
            ("calculate", {"expression": "1 + 1"}),
            ("calculate", {"expression": "2 + 2"}),
            ("list_files", {}),
            ("read_file", {"path": "notes/otters.md"}),
            ("search_documents", {"query": "where do otters sleep"}),
            ("recall", {"query": "otters"}),
            ("generate", {"prompt": "Once", "max_new_tokens": 5}),
            ("clock", {}),
        ],
        "Done.",
    ]
    spoken = iter(said)

    def reply(text: str, _sampling: Any) -> Any:
        return "upon" if text == "Once" else next(spoken)

    model = ScriptedTaskModel(reply, context_length=1 << 16)
    with llmasos.Pipeline.from_config(configured(tmp_path, **options)) as pipeline:
        output = pipeline.task("assist").run(model, Inputs(message="Use all."))
    assert output.text == "Done."
    assert results(model) == [
        "6",
        "2",
        "Error: the call was not allowed, so it was not run.",
        "notes/otters.md",
        "Otters sleep in the river.",
        "[otters.md]\nOtters sleep in the river.",
        "Nothing was said about that.",
        "upon",
        "Error: there is no tool 'clock'; there are calculator, list_files, read_file, search_documents, recall, calculate, generate.",
    ]


@pytest.mark.parametrize(("options", "told"), [
    ({"tasks": ["asist"]}, 'No task "asist"'),
    ({"functions": ["no_such:thing"]}, "cannot be imported"),
    ({"files": ["/no/such/folder"]}, "is no folder"),
    ({"functions": ["llmasos_app_assistant.tools.calculator:calculate"] * 2}, 'Two tools are called "calculate"'),
])  # fmt: skip
def test_a_tool_that_cannot_be_made_is_told(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with llmasos.Pipeline.from_config(configured(tmp_path, **options)) as pipeline, pytest.raises((ConfigError, PluginError), match=told):
        pipeline.task("assist")


@pytest.mark.parametrize(("options", "told"), [
    ({"mcp": {"shop": {}}}, r"tasks\.assist\.mcp\.shop is not accepted: give command"),
    ({"policy": [{"tool": "x", "action": "maybe"}]}, r"tasks\.assist\.policy\[0\]\.action"),
    ({"bounds": {"steps": 0}}, r"tasks\.assist\.bounds\.steps"),
    ({"openapi": {"shop": {}}}, r"tasks\.assist\.openapi\.shop\.document must be set"),
])  # fmt: skip
def test_wrong_options_are_told_before_anything_is_made(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        llmasos.Pipeline.from_config(configured(tmp_path, **options))


def test_offline_nothing_beyond_this_machine_is_asked(tmp_path: Path) -> None:
    config = {**configured(tmp_path, mcp={"shop": {"url": "https://shop.example/mcp"}}), "offline": True}
    with llmasos.Pipeline.from_config(config) as pipeline, pytest.raises(ConfigError, match="nothing beyond this machine"):
        pipeline.task("assist")


def test_it_is_another_models_too(tmp_path: Path) -> None:
    """A task keeps no model: each run has the one that it is given."""
    with llmasos.Pipeline.from_config(configured(tmp_path)) as pipeline:
        task = pipeline.task("assist")
        assert [task.run(model_of(said), Inputs(message="Hello")).text for said in ("One.", "Two.")] == ["One.", "Two."]
