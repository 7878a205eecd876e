"""Every command of the command line that a document or a component's example prints is one that it understands; `test_examples.py` runs
them."""

from __future__ import annotations

import functools
import tomllib
from typing import Any

import pytest
import typer.main
from tests.printed_commands import ROOT, Printed, in_documents, of_components

from llmasos.cli.app import app
from llmasos.system.discovery import registry


def own_verbs(document: str) -> set[str]:
    """The verbs that the package of a document brings: its installation test runs them."""
    file = (ROOT / document).parent / "pyproject.toml"
    points = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {}) if file.is_file() else {}
    return set(points.get("llmasos.commands", {}))


COMMANDS = [printed for printed in in_documents() if printed.words[0] not in own_verbs(printed.where)]


def test_the_command_line_understands_the_examples_of_every_component() -> None:
    """And every task has one."""
    found = list(of_components())
    for printed in found:
        understood(printed)
    assert {entry.label for entry in registry().entries("task")} <= {printed.where for printed in found}


@pytest.mark.parametrize("printed", COMMANDS, ids=lambda printed: f"{printed.where}-{printed.line}")
def test_the_command_line_understands_it(printed: Printed) -> None:
    understood(printed)


@functools.cache
def command_line() -> Any:
    """The tree of all commands, which takes longer to make than a line to be read."""
    return typer.main.get_command(app)


def understood(printed: Printed) -> None:
    arguments, group = printed.words, command_line()
    context = group.make_context("llmasos", list(arguments))
    while hasattr(group, "commands"):
        name, group, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        assert group is not None, printed.where
        context = group.make_context(name, arguments, parent=context)


def test_documents_print_commands() -> None:
    """The search for them finds what stands in the packages' first lines."""
    assert len({printed.where for printed in COMMANDS}) > 10
