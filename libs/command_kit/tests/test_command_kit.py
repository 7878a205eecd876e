"""Verbs of any package have their shared options alike, with completion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.completion import names_of
from llmasos_command_kit.verb import verb


class Known:
    """Names as ``llmasos`` gives them."""

    def names(self, kind: str) -> Iterable[str]:
        return {"loader": ["torch", "onnx", "openvino"], "model": ["smollm2"]}.get(kind, [])


def completed(kind: str, incomplete: str, known: Any = None) -> list[str]:
    command = verb("x", lambda: None)
    with command.make_context("x", [], obj=known, resilient_parsing=True) as context:
        return names_of(kind)(context, incomplete)


def test_names_that_begin_as_typed_are_offered_in_order() -> None:
    """Of the kind that the option takes; nothing where nobody knows the names, as in a verb that is run by itself."""
    assert completed("loader", "o", Known()) == ["onnx", "openvino"]
    assert completed("model", "", Known()) == ["smollm2"]
    assert completed("scheduler", "", Known()) == []
    assert completed("loader", "o") == []


def test_a_function_becomes_a_verb() -> None:
    """Its docstring is the help, what it returns the exit code, and its options are those that all verbs have."""
    seen: list[Any] = []

    def count(model: o.ModelOption = None, overrides: o.SetOption = None, as_json: o.JsonOption = False) -> int:
        """Count things."""
        seen.append((model, overrides, as_json))
        return 3

    command: Any = verb("count", count)
    assert command.main(["-m", "a", "--set", "seed=7", "--json"], prog_name="llmasos count", standalone_mode=False) == 3
    assert seen == [("a", ["seed=7"], True)]
    assert command.help == "Count things."


def test_settings_reach_the_function() -> None:
    """Words that it does not know, where it takes them."""
    seen: list[str] = []

    def rest(given: typer.Context) -> None:
        """Take any words."""
        seen.extend(given.args)

    command = verb("rest", rest, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    command.main(["--text", "x"], prog_name="llmasos rest", standalone_mode=False)
    assert seen == ["--text", "x"]


def test_a_scheduler_is_one_more_setting() -> None:
    """Quoted, so that any name stays one."""
    assert o.with_scheduler(["seed=7"], 'a"b') == ["seed=7", 'scheduler.use="a\\"b"']
    assert o.with_scheduler(None, None) == []
