"""``CommandConformance`` passes a right command and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs import CommandContext, CommandModel
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import SandboxCommandContext

PLUGIN = '''
from llmasos_hookspecs import Component, RequestError, hookimpl

class Greet:
    """A command without a library for command lines: argparse, called as click's commands are."""

    def __init__(self, context): self._context = context

    def main(self, args=None, prog_name=None, *, standalone_mode=True):
        import argparse
        parser = argparse.ArgumentParser(prog=prog_name, description="Greet somebody. The greeting is a model's.")
        parser.add_argument("name", help="Whom.")
        parser.add_argument("--json", action="store_true", help="Print the answer as JSON.")
        found = parser.parse_args(args)
        if not found.name.strip():
            raise RequestError("The name is empty; give one.")
        with self._context.model() as model:
            text = model.generate(f"Greet {found.name}.").text
        self._context.answer({"greeting": text}, text or "-", as_json=found.json)

@hookimpl
def llmasos_component(): return Component(summary="Greet somebody.")

@hookimpl
def llmasos_command(context): return Greet(context)
'''

BODY = "examples = (('Ada',),)\nreply = 'Hello!'"


def changed(old: str, new: str) -> str:
    assert old in PLUGIN
    return PLUGIN.replace(old, new)


WRONG = {
    "returns no command": (changed("return Greet(context)", "return lambda: None"), "test_command_is_whole"),
    "is made once": (
        changed("context): return Greet(context)", "context): return globals().setdefault('MADE', Greet(context))"),
        "test_command_is_whole",
    ),
    "prints when it is made": (changed("self._context = context", "self._context = context; print('made')"), "test_command_is_whole"),
    "has no help": (changed("ArgumentParser(", "ArgumentParser(add_help=False, "), "test_help_tells_what_it_does"),
    "calls itself otherwise": (changed("prog=prog_name", "prog='greet'"), "test_help_tells_what_it_does"),
    "has no json": (changed('"--json"', '"--as-json"').replace("found.json", "found.as_json"), "test_each_verb_has_json"),
    "takes any option": (changed("parser.parse_args(args)", "parser.parse_known_args(args)[0]"), "test_wrong_use_ends_with_two"),
    "ends wrong use with 1": (
        changed("found = parser.parse", "parser.error = lambda text: parser.exit(1, text); found = parser.parse"),
        "test_wrong_use_ends_with_two",
    ),
    "needs what is not there": (changed("self._context.model()", "self._context.engine()"), "test_examples_work"),
    "says nothing": (changed("self._context.answer(", "dict(answer="), "test_examples_work"),
    "works once": (
        changed("        with self", "        import pathlib; pathlib.Path('greeted').mkdir()\n        with self"), "test_examples_work"
    ),
    "prints beside the JSON": (changed("self._context.answer", "print('Greeting:'); self._context.answer"), "test_examples_give_json"),
    "ignores --json": (changed("as_json=found.json", "as_json=False"), "test_examples_give_json"),
    "imports a framework": (changed("class Greet:", "import httpx\n\nclass Greet:"), "test_import_is_light"),
}  # fmt: skip


def test_the_sandbox_has_all_of_the_contract(tmp_path: Path) -> None:
    """Its context has every member of ``CommandContext``, and its model those of ``CommandModel``; the logits are its checkpoint's."""
    context = SandboxCommandContext(root=tmp_path)
    assert [name for name in members(CommandContext) if not hasattr(context, name)] == []
    with context.model("any") as model:
        assert [name for name in members(CommandModel) if not hasattr(model, name)] == []
        assert np.array_equal(model.logits([1, 2, 3]), ReferenceDecoder(model.checkpoint).logits([1, 2, 3]))


def test_the_sandbox_starts_interpreters(tmp_path: Path) -> None:
    """They import from the folders that are given, and get the arguments."""
    (tmp_path / "beside.py").write_text("WORD = 'right'")
    command = SandboxCommandContext(root=tmp_path).python("import beside; print(beside.WORD, *sys.argv[1:])", "x", first=[tmp_path])
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "right x\n"


def members(protocol: type) -> set[str]:
    """The public names that a Protocol and its bases declare."""
    return {name for base in protocol.__mro__ for name in (*vars(base), *getattr(base, "__annotations__", ())) if not name.startswith("_")}


def test_a_right_command_passes(run_conformance: Callable[..., Any]) -> None:
    """A command passes every standard test, whatever library it is made with."""
    outcomes = run_conformance("CommandConformance", PLUGIN, BODY)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_command_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A command with one defect fails the test that is meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("CommandConformance", source, BODY, [caught_by])
    assert not outcomes.collection_errors
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
