"""Components are described without being imported here, and no longer than their files stay the same."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import pytest

from llmasos.system import descriptions
from llmasos.system.config_schema import config_schema
from llmasos.system.descriptions import Description, described
from llmasos.system.sources import resolve
from llmasos_hookspecs import SourceError
from llmasos_isolation import run_apart

TASK = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl
    {first}

    @attrs.frozen
    class Options:
        tone: str = attrs.field(default="kind", metadata={{"choices": ("kind", "curt")}})

    @hookimpl
    def llmasos_component():
        return Component(summary="{summary}", options=Options, examples=("llmasos task it",), {more})

    @hookimpl
    def llmasos_create_task(options, context): ...
"""


def code(first: str = "", summary: str = "It does it.", more: str = "") -> str:
    return textwrap.dedent(TASK).format(first=textwrap.dedent(first), summary=summary, more=more)


@pytest.fixture
def describe(site: Any) -> Any:
    """Describes the tasks of the site, and no other."""
    return lambda: {
        found.entry.name: found for found in described(entry for entry in site.registry.entries("task") if entry.module.startswith("own_"))
    }


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the components that each child was asked for."""
    asked: list[list[str]] = []
    run = descriptions.run_apart

    def counted(function: str, entries: list[dict[str, Any]], **how: Any) -> Any:
        asked.append([entry["name"] for entry in entries])
        return run(function, entries, **how)

    monkeypatch.setattr(descriptions, "run_apart", counted)
    return asked


def test_a_description_holds_the_plain_data_of_the_component(site, describe):
    site.add("own-it", "task", "it", code())
    found: Description = describe()["it"]
    assert (found.problem, found.summary, found.examples) == ("", "It does it.", ("llmasos task it",))
    assert found.options["properties"]["tone"]["enum"] == ["kind", "curt"]
    assert found.option_names == ("tone",)
    assert "own_it" not in sys.modules


def test_one_child_describes_all_and_none_is_needed_again(site, describe, children):
    for name in ("a", "b", "c"):
        site.add(f"own-{name}", "task", name, code(summary=name))
    assert [each.summary for each in describe().values()] == ["a", "b", "c"]
    assert [each.summary for each in describe().values()] == ["a", "b", "c"]
    assert children == [["a", "b", "c"]]


def test_a_changed_file_is_described_anew(site, describe, children):
    module = site.add("own-it", "task", "it", code(summary="old"))
    assert describe()["it"].summary == "old"
    (site.path / f"{module}.py").write_text(code(summary="changed"))
    assert describe()["it"].summary == "changed"
    assert len(children) == 2


def test_one_that_fails_harms_no_other(site, describe):
    """It crashes the child, hangs it, raises, prints, or says what is of no use: the others are described, and its problem is told."""
    site.add("own-good", "task", "good", code())
    site.add("own-crash", "task", "crash", code("import os; os._exit(3)"))
    site.add("own-exit", "task", "exit", code("raise SystemExit('no')"))
    site.add("own-loud", "task", "loud", code("print('x' * 100000)"))
    site.add("own-odd", "task", "odd", code(more="preference='high'"))
    site.add("own-object", "task", "object", code(more="formats=(object(),)"))
    found = describe()
    assert {name: bool(each.problem) for name, each in found.items()} == {
        "good": False, "crash": True, "exit": True, "loud": False, "odd": True, "object": True,
    }  # fmt: skip
    assert 'task "crash" (own-crash 1.0) cannot be described' in found["crash"].problem
    assert "raises SystemExit: no" in found["exit"].problem
    assert not {f"own_{name}" for name in found} & set(sys.modules)


def test_one_that_hangs_is_stopped(site, describe, monkeypatch):
    monkeypatch.setattr(descriptions, "_LIMITS", descriptions.ApartLimits(seconds=3.0))
    site.add("own-slow", "task", "slow", code("import time; time.sleep(60)"))
    assert "it takes longer than 3 seconds" in describe()["slow"].problem


@pytest.fixture
def read_apart(monkeypatch) -> list[list[str]]:
    """The names of the components that each child process read."""
    read: list[list[str]] = []

    def counted(call, entries, **more):
        read.append([entry["name"] for entry in entries])
        return run_apart(call, entries, **more)

    monkeypatch.setattr(descriptions, "run_apart", counted)
    return read


def test_one_of_many_kinds_that_fails_is_found_by_its_kind(site, read_apart):
    """The components of all kinds are read in one process; where it ends, those of each kind, and of the faulty one's kind each alone."""
    sound = '"""It says nothing of itself."""'
    for kind, name, text in (("guard", "mild", sound), ("task", "good", code()), ("task", "crash", code("import os; os._exit(3)"))):
        site.add(f"own-{name}", kind, name, text)
    entries = [entry for entry in site.registry.entries() if entry.module.startswith("own_")]
    found = {each.entry.name: each.problem for each in described(entries)}
    assert {name for name, problem in found.items() if "in a process of its own" in problem} == {"crash"}
    assert [sorted(names) for names in read_apart] == [["crash", "good", "mild"], ["mild"], ["crash", "good"], ["crash"], ["good"]]


def test_the_schema_of_configs_imports_no_plugin(site, read_apart):
    """All that are installed are read in one process."""
    site.add("own-it", "task", "it", code())
    variants = config_schema(site.registry)["$defs"]["task"]["anyOf"]
    assert len(read_apart) == 1
    (mine,) = [each for each in variants if "it" in each.get("properties", {}).get("use", {}).get("enum", ())]
    assert mine["properties"]["tone"]["enum"] == ["kind", "curt"]
    assert "own_it" not in sys.modules


def test_a_reference_imports_no_source_of_another_scheme(site, store):
    source = code(more="schemes=('mine',)").replace("llmasos_create_task(options", "llmasos_fetch(ref, options")
    site.add("own-source", "source", "own", source)
    with pytest.raises(SourceError):
        resolve("other:model", registry=site.registry, store=store)
    assert "own_source" not in sys.modules
    with pytest.raises(SourceError):
        resolve("mine:model", registry=site.registry, store=store)
    assert "own_source" in sys.modules
