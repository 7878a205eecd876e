"""Every promise of docs/reliability.md names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"\| `([\w/.]+)::(\w+)` \|$", re.MULTILINE)


def rows(text: str) -> list[str]:
    tables = [block for block in text.split("\n\n") if block.startswith("| promise | test |")]
    return [line for table in tables for line in table.splitlines()[2:]]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert len(named) == len(rows(text)) > 30
    assert [f"{file}::{test}" for file, test in named if test not in functions_of(ROOT / file)] == []
    assert len(set(named)) == len(named)
