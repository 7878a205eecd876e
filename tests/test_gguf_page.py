"""docs/gguf.md lists what is read and written."""

from __future__ import annotations

import re
from pathlib import Path

from gguf.constants import MODEL_ARCH_NAMES
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from llmasos_format_gguf.blocks import BLOCK_TYPES, FLOATS, GRIDS, NUMBERS
from llmasos_format_gguf.families import FAMILIES, architectures
from llmasos_format_gguf.write import TYPES

PAGE = (Path(__file__).parent.parent / "docs" / "gguf.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    part = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_table_of_architectures_is_that_of_the_code() -> None:
    listed = {(row[0].strip("`"), kind) for row in table("Architectures") for kind in re.findall(r"`([\w-]+)`", row[1])}
    assert listed == {(family.arch, family.model_type) for family in FAMILIES}


def test_what_is_listed_as_not_read_is_not() -> None:
    rows = table("Not read")
    listed = {name for row in rows for name in re.findall(r"`([\w-]+)`", row[0])}
    assert listed <= set(MODEL_ARCH_NAMES.values())
    assert listed.isdisjoint(architectures())
    kinds = {kind for row in rows for kind in re.findall(r"`([\w-]+)`", row[1])}
    assert kinds <= set(CONFIG_MAPPING_NAMES)
    assert all(len(row) == 3 and row[2] for row in rows)
    assert kinds.isdisjoint(family.model_type for family in FAMILIES)


def test_windows_that_llama_cpp_leaves_out_are_told() -> None:
    told = {re.findall(r"`([\w-]+)`", row[1])[0] for row in table("Architectures") if "window" in row[2]}
    assert told == {family.model_type for family in FAMILIES if family.unwindowed}


def test_the_table_of_types_is_that_of_the_code() -> None:
    rows = {name: row for row in table("Types") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(rows) == {kind.name for kind in (*FLOATS, *NUMBERS, *BLOCK_TYPES, *GRIDS)}
    assert {name for name, row in rows.items() if row[2] == "yes"} == {kind.name for kind, _ in TYPES.values()}
    assert {name for name, row in rows.items() if row[1].startswith("codes")} == {kind.name for kind in BLOCK_TYPES}
