"""Functions as tools, and the tools that come with the assistant."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from llmasos_app_assistant import Scope, Tool, ToolError, tool
from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_app_assistant.memory.vectors import VectorStore
from llmasos_app_assistant.tools.calculator import calculate
from llmasos_app_assistant.tools.clock import clock_tool
from llmasos_app_assistant.tools.documents import Documents, document_tool
from llmasos_app_assistant.tools.files import Folders, file_tools
from llmasos_app_assistant.tools.functions import function_named
from llmasos_app_assistant.tools.signature import as_text
from llmasos_app_assistant.tools.tasks import task_tool
from llmasos_app_assistant.tools.tool import tool_name
from llmasos_hookspecs import Component, ConfigError
from llmasos_hookspecs.testing import ScriptedTaskModel

SCOPE = Scope(model=ScriptedTaskModel(lambda _text, _sampling: "Otters."), seconds=1.0)


def run(found: Tool, **arguments: Any) -> str:
    return as_text(found.run(arguments, SCOPE))


# Functions


def test_a_functions_type_hints_are_its_schema() -> None:
    """Names that pydantic has for itself, and a parameter for the scope, are no trouble; docstrings describe parameters."""

    @tool
    def look(json: str, copy: list[int], model_x: Literal["a", "b"] = "a", *, scope: Scope, seed: int | None = None) -> list[Any]:
        """Look at it.

        More of it.

        Args:
            json: what to look at,
                in full.
            copy (list): numbers.

        Returns:
            What it saw.
        """
        return [json, copy, model_x, scope is SCOPE, seed]

    assert look.name == "look"
    assert look.description == "Look at it.\n\nMore of it.\n\nReturns:\n    What it saw."
    assert look.parameters == {
        "type": "object",
        "properties": {
            "json": {"type": "string", "description": "what to look at, in full."},
            "copy": {"type": "array", "items": {"type": "integer"}, "description": "numbers."},
            "model_x": {"enum": ["a", "b"], "type": "string", "default": "a"},
            "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["json", "copy"],
        "additionalProperties": False,
    }
    assert run(look, json="x", copy=[1]) == '["x",[1],"a",true,null]'
    with pytest.raises(ToolError, match=r"copy\.0: Input should be a valid integer"):
        look.run({"json": "x", "copy": ["y"]}, SCOPE)


def untyped(a, b=1):  # type: ignore[no-untyped-def]
    return a


def several(*numbers: int) -> int:
    return len(numbers)


def opaque(a: Callable[[], int]) -> int:
    return a()


@pytest.mark.parametrize(("function", "told"), [
    (untyped, "its parameter a has no type hint"), (several, "cannot be given by name"), (opaque, "no JSON Schema"),
])  # fmt: skip
def test_a_function_that_can_be_no_tool_is_told(function: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tool(function)


def test_config_names_functions() -> None:
    assert function_named(f"{__name__}:named").decision == "ask"
    assert function_named(f"{__name__}:READY") is READY
    for path in ("no_such:thing", "os:no_such", "os"):
        with pytest.raises(ConfigError, match=r'cannot be imported .*; write "module:function"'):
            function_named(path)
    with pytest.raises(ConfigError, match="no function"):
        function_named("os:sep")


def named(text: str) -> str:
    return text


READY = tool(name="ready")(named)


def test_a_description_is_shown_as_far_as_it_helps() -> None:
    assert len(tool(name="wordy", description="word " * 9999)(named).described()["function"]["description"]) == 1024


def test_names_are_such_as_templates_take() -> None:
    assert tool_name("my shop", "get/price.v2") == "my_shop_get_price_v2"


def test_results_are_texts() -> None:
    @attrs.frozen
    class Fact:
        name: str
        path: Path

    assert [as_text(value) for value in ("é", None, {"a": float("nan")}, Fact("x", Path("y")), {1, 2})] == [
        "é", "null", '{"a":"NaN"}', '{"name":"x","path":"y"}', "[1,2]",
    ]  # fmt: skip


# Tasks


def test_a_task_is_a_tool_that_runs_on_the_model_that_calls_it() -> None:
    @attrs.frozen(kw_only=True)
    class Inputs:
        text: str = attrs.field(metadata={"help": "The text."})
        tone: str = attrs.field(default="plain", metadata={"choices": ("plain", "warm")})
        tags: tuple[str, ...] = ()

    @attrs.frozen
    class Output:
        said: str
        tags: tuple[str, ...]

    class Rewrite:
        inputs = Inputs
        output = Output

        def run(self, model: Any, given: Inputs) -> Output:
            return Output(model.generate(given.text, max_new_tokens=20).text + given.tone, given.tags)

    class Reached:
        component = Component(summary="Rewrite a text.")

        def make(self) -> Rewrite:
            return Rewrite()

    class Reaching:
        def component(self, kind: str, use: str) -> Reached:
            assert (kind, use) == ("task", "rewrite")
            return Reached()

    context: Any = Reaching()
    found = task_tool("rewrite", context)
    assert (found.name, found.description, found.decision, found.repeatable) == ("rewrite", "Rewrite a text.", "allow", False)
    assert found.parameters["properties"]["text"] == {"type": "string", "description": "The text."}
    assert found.parameters["properties"]["tone"]["enum"] == ["plain", "warm"]
    assert run(found, text="x", tags=["a"]) == '{"said":"Otters.plain","tags":["a"]}'
    with pytest.raises(ToolError, match="tone"):
        found.run({"text": "x", "tone": "loud"}, SCOPE)
    with pytest.raises(ConfigError, match="itself"):
        task_tool("assist", context)


# The calculator and the clock


@pytest.mark.parametrize(("expression", "value"), [
    ("2 + 3 * 4", "14"), ("(2 + 3) * 4", "20"), ("2 ** 10", "1024"), ("2^10", "1024"), ("7 / 2", "3.5"), ("-7 // 2", "-4"), ("7 % 4", "3"),
    ("0.1 + 0.2", "0.3"), ("sqrt(16) + max(1, 2, 3)", "7"), ("round(pi, 4)", "3.1416"), ("17 * 2340 / 100", "397.8"), (" 12 ", "12"),
    ("123456789 * 987654321", "121932631112635269"),
])  # fmt: skip
def test_the_calculator_calculates(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", [
    "", "2 +", "1 / 0", "9 ** 9 ** 9", "10 ** 5000", "2.0 ** 5000", "x", "__import__('os')", "().__class__", "'a' * 9", "[1]",
    "1 if 1 else 2", "sqrt(-1)", "(-8) ** 0.5", "lambda: 1", "sqrt", "True + 1", "f'{1}'", "max(*[1])", "round(1, ndigits=2)", "(" * 400,
    "1+" * 400 + "1", "gcd(1.5, 2)", "9 ** 1000 * 9 ** 1000", "1e400", "max()", "0x" + "f" * 490 + "**3", "-" * 300 + "1" + "~1",
    "log(0)", "1j",
])  # fmt: skip
def test_the_calculator_runs_no_code_and_comes_to_an_end(expression: str) -> None:
    with pytest.raises(ToolError, match=r"\.$"):
        calculate(expression)


def test_the_clock_tells_the_time() -> None:
    clock = clock_tool()
    assert re.fullmatch(r"[A-Z]\w+day, \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run(clock, timezone="UTC"))
    assert run(clock)
    for zone in ("Mars/Base", "../../etc/passwd", "\0"):
        with pytest.raises(ToolError, match="no time zone"):
            clock.run({"timezone": zone}, SCOPE)


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder, files beside it, and links that lead out of it and stay in it."""
    inside, outside = tmp_path / "notes", tmp_path / "private"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "keys.txt").write_text("secret", encoding="utf-8")
    (inside / "otters.md").write_text("".join(f"line {number}\n" for number in range(1, 501)), encoding="utf-8")
    (inside / "deep" / "one.txt").write_text("Otters sleep.", encoding="utf-8")
    (inside / ".hidden").write_text("secret", encoding="utf-8")
    (inside / "bytes.bin").write_bytes(b"\0\1")
    (inside / "out").symlink_to(outside)
    (inside / "key.txt").symlink_to(outside / "keys.txt")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "same.txt").symlink_to(inside / "deep" / "one.txt")
    os.mkfifo(inside / "pipe")
    return inside


def test_files_below_a_folder_are_listed_and_read(folder: Path) -> None:
    list_files, read_file = file_tools(Folders([str(folder)]))
    assert run(list_files).splitlines() == ["notes/bytes.bin", "notes/otters.md", "notes/same.txt", "notes/deep/one.txt"]
    assert run(list_files, pattern="*.md") == "notes/otters.md"
    assert run(list_files, pattern="*.pdf") == "No file matches '*.pdf'."
    assert run(read_file, path="notes/deep/one.txt") == "Otters sleep."
    assert run(read_file, path="notes/same.txt") == "Otters sleep."
    assert run(read_file, path="notes/otters.md", first_line=499, lines=9) == "line 499\nline 500"
    assert run(read_file, path="notes/otters.md", lines=2) == "line 1\nline 2\n[498 more lines follow; read on from line 3.]"


@pytest.mark.parametrize("path", [
    "notes/key.txt", "notes/out/keys.txt", "notes/../private/keys.txt", "private/keys.txt", "/etc/passwd", "notes//etc/passwd", "notes",
    "notes/", "notes/.hidden", "notes/loop", "notes/pipe", "notes/deep", "notes/bytes.bin", "notes/nothing.txt", "notes/a\0b", "",
    "notes/deep/../../private/keys.txt", "notes\\..\\private\\keys.txt", "notes/" + "a" * 5000,
])  # fmt: skip
def test_nothing_else_is_read(folder: Path, path: str) -> None:
    _, read_file = file_tools(Folders([str(folder)]))
    with pytest.raises(ToolError) as told:
        read_file.run({"path": path}, SCOPE)
    assert "secret" not in str(told.value)


def test_folders_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        Folders([str(folder / "otters.md")])
    (tmp_path / "other" / "notes").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Two folders"):
        Folders([str(folder), str(tmp_path / "other" / "notes")])


# Documents


@pytest.mark.parametrize("embedding", [None, "embedder"])
def test_documents_are_searched(folder: Path, tmp_path: Path, embedding: str | None) -> None:
    """By words, and by meaning where a model embeds; a file that changed is read again, and a link leads nowhere."""
    (folder / "food.txt").write_text("Lentil soup needs cumin. Otters eat fish.", encoding="utf-8")
    vectors = VectorStore(AssistantDatabase(tmp_path / "kept"))
    search = document_tool(Documents([str(folder / "food.txt"), str(folder / "deep"), str(folder)], 40, vectors, embedding))
    assert run(search, query="what does the soup need", count=1) == "[food.txt]\nLentil soup needs cumin."
    assert run(search, query="otters", count=9).count("Otters sleep.") == 1
    assert "secret" not in run(search, query="secret", count=10)
    (folder / "food.txt").write_text("Pancakes need much milk, more than soup.", encoding="utf-8")
    assert "Pancakes" in run(search, query="milk pancakes", count=1)
    if embedding is None:
        assert run(search, query="quantum") == "The documents hold nothing about that."
    with pytest.raises(ConfigError, match="not there"):
        Documents([str(tmp_path / "nowhere")], 40, vectors, None)
