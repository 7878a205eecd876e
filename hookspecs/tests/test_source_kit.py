"""``SourceConformance`` passes a right source and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs import WORKING, PluginError, SourceError
from llmasos_hookspecs.testing.sandbox import SandboxStore

PLUGIN = """
import shutil
from pathlib import Path
from llmasos_hookspecs import Component, SourceError, hookimpl

@hookimpl
def llmasos_component(): return Component(summary="Copy a folder into the store.", schemes=("copy",))

@hookimpl
def llmasos_fetch(ref, context):
    scheme, _, rest = ref.partition(":")
    if scheme != "copy":
        return None
    if not rest or ".." in rest or not Path(rest).is_absolute() or not Path(rest).is_dir():
        raise SourceError(f"{ref!r} names no folder; give an absolute path.")
    found = context.store.find(rest)
    if found is not None:
        return found
    return context.store.add(rest, lambda folder: shutil.copytree(rest, folder, dirs_exist_ok=True), source=ref)
"""

CHECK = """    if not rest or ".." in rest or not Path(rest).is_absolute() or not Path(rest).is_dir():
"""

BODY = """
def make_reference(self, folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return f"copy:{folder}"
"""


def changed(old: str, new: str) -> str:
    assert old in PLUGIN
    return PLUGIN.replace(old, new)


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: tuple[str, ...]


FAILS = "test_unknown_references_are_refused"
WRONG = {
    "refuses what is not its own": Wrong(
        changed("return None\n", 'raise SourceError("not mine")\n'), ("test_leaves_foreign_references_alone",)
    ),
    "answers what is not its own": Wrong(
        changed('    if scheme != "copy":\n        return None\n', ""), ("test_leaves_foreign_references_alone",)
    ),
    "invents a folder": Wrong(
        changed('raise SourceError(f"{ref!r} names no folder; give an absolute path.")', "return Path.cwd()"), (FAILS,)
    ),
    "raises what is no SourceError": Wrong(changed("raise SourceError(", "raise OSError("), (FAILS,)),
    "goes to the network offline": Wrong(
        changed("    if not rest", "    import socket\n    socket.create_connection(('127.0.0.1', 9))\n    if not rest"), (FAILS,)
    ),
    "fetches every time to another place": Wrong(
        changed("found = context.store.find(rest)", "found = None").replace("add(rest,", "add(rest + str(context.store.fills),"),
        ("test_fetching_twice_gives_the_same",),
    ),
    "returns text": Wrong(changed("return context.store.add(", "return str(context.store.add)("), ("test_fetching_twice_gives_the_same",)),
    "returns what is not there": Wrong(
        changed("return context.store.add(rest, lambda", 'return Path("/nowhere") or (rest, lambda'),
        ("test_fetching_twice_gives_the_same",),
    ),
    "follows dots out of its place": Wrong(
        changed(
            CHECK,
            "    if Path('shelf', rest).is_dir():\n        return Path('shelf', rest).absolute()\n" + CHECK.replace('".." in rest or ', ""),
        ),
        ("test_stays_in_its_place",),
    ),
    "follows dots out of its cache": Wrong(
        changed(CHECK, "    if (context.cache / rest / 'config.json').exists():\n        return context.cache / rest\n" + CHECK),
        ("test_stays_in_its_place",),
    ),
    "has a scheme with a colon": Wrong(changed('("copy",)', '("copy:",)'), ("test_schemes_are_plain",)),
}


def test_a_right_source_passes(run_conformance: Callable[..., Any]) -> None:
    """A source that copies into the store passes every standard test."""
    outcomes = run_conformance("SourceConformance", PLUGIN, BODY)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_source_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A source with one defect fails the tests that are meant to find it."""
    wrong = WRONG[defect]
    outcomes = run_conformance("SourceConformance", wrong.source, BODY, wrong.caught_by)
    assert not outcomes.collection_errors
    assert set(wrong.caught_by) <= outcomes.failed, f"passed {sorted(outcomes.passed)}"


def test_the_kits_store_keeps_a_fetch_without_its_working_state_and_holds_files_to_their_first_digest(tmp_path: Path) -> None:
    """As core's does; what returns no source and licence is at fault."""
    store = SandboxStore(tmp_path)

    def fill(folder: Path) -> tuple[str, str]:
        (folder / f"{WORKING}-work").mkdir()
        (folder / f"{WORKING}-work" / "half").write_text("x")
        (folder / "config.json").write_text("{}")
        return "x:model@1", "MIT"

    path = store.fetch("x:model", fill)
    assert [each.name for each in path.iterdir()] == ["config.json"]
    assert store.fetch("x:model", fill) == path
    assert store.fills == 1
    with pytest.raises(PluginError, match=r"returned \('x', None\); return the exact source and the licence"):
        store.fetch("x:other", lambda folder: (str((folder / "f").write_text("x") and "x"), None))
    store.check_digest("x.whl", "aa")
    store.check_digest("x.whl", "aa")
    with pytest.raises(SourceError, match="was aa when it was first fetched"):
        store.check_digest("x.whl", "bb")
