"""What a plugin's context runs apart, and what it remembers: of core and of the conformance kit alike."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from llmasos.system.context import HookContext
from llmasos_hookspecs import ApartError, ApartLimits, CheckpointError, Context, PluginError, UnsupportedModel, apart, inspect_once
from llmasos_hookspecs.testing.sandbox import SandboxContext
from llmasos_model_store.store import Store

MODULE = """
import os, time
from pathlib import Path
from llmasos_hookspecs import CheckpointError, UnsupportedModel

def inspect(path, *arguments):
    text = Path(path).read_text()
    if text == "bad":
        raise CheckpointError(f"{path} is bad; get it again.")
    if text == "other":
        raise UnsupportedModel(f"{path} is another's.")
    if text == "odd":
        raise ValueError("odd")
    if text == "crash":
        os._exit(1)
    if text == "slow":
        time.sleep(600)

def double(number, data):
    print("not the answer")
    return {"number": 2 * number, "data": data * 2, "pid": os.getpid()}
"""


@pytest.fixture(params=["core", "kit"])
def context(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "inspector.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(apart, "_passed", set())
    if request.param == "kit":
        return SandboxContext(root=tmp_path / "kit")
    return HookContext(name="mine", cache=tmp_path / "cache", store=Store(tmp_path / "store"))


@pytest.fixture
def calls(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that really ran apart."""
    ran: list[str] = []
    run = type(context).apart

    def counted(self: Context, function: str, *arguments: Any, **how: Any) -> Any:
        ran.append(function)
        return run(self, function, *arguments, **how)

    monkeypatch.setattr(type(context), "apart", counted)
    return ran


def inspect(context: Context, path: Path, *arguments: Any, version: int = 1, **limits: Any) -> None:
    inspect_once(context, "inspector:inspect", [path], *arguments, version=version, limits=ApartLimits(**limits))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_plain_data_goes_to_another_process_and_back(context: Context):
    answer = context.apart("inspector:double", 4, b"\x00\xff")
    assert answer.pop("pid") != os.getpid()
    assert answer == {"number": 8, "data": b"\x00\xff\x00\xff"}


@pytest.mark.parametrize(("text", "kind"), [("bad", CheckpointError), ("other", UnsupportedModel)])
def test_an_error_that_is_meant_keeps_its_class_and_its_sentence(context: Context, tmp_path: Path, text: str, kind: type):
    path = written(tmp_path / "file", text)
    with pytest.raises(kind, match=rf"^{path} is ") as caught:
        inspect(context, path)
    assert type(caught.value) is kind


def test_other_errors_limits_and_crashes_become_one_sentence(context: Context, tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(CheckpointError, match=rf"^{path} could not be inspected \(ValueError: odd\); get the model again\.$"):
        inspect(context, written(path, "odd"))
    with pytest.raises(CheckpointError, match="not inspected to the end: it takes more time or memory than it may, or crashes"):
        inspect(context, written(path, "crash"))
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="not inspected to the end: it takes longer than 2 seconds; do not use this model"):
        inspect(context, written(path, "slow"), seconds=2.0)
    assert time.monotonic() - began < 300
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        inspect(context, tmp_path / "missing")


def test_a_file_that_passed_is_not_inspected_again(context: Context, calls: list[str], tmp_path: Path):
    """Content decides, not its place; other arguments and another version of the check are another question."""
    path = written(tmp_path / "file", "good")
    inspect(context, path)
    inspect(context, path)
    apart._passed.clear()  # as in another process
    inspect(context, written(tmp_path / "copy", "good"))
    assert len(calls) == 1
    inspect(context, written(path, "good too"))
    inspect(context, path, "argument")
    inspect(context, path, version=2)
    assert len(calls) == 4


def test_a_file_that_did_not_pass_is_inspected_again(context: Context, calls: list[str], tmp_path: Path):
    path = written(tmp_path / "file", "bad")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="is bad"):
            inspect(context, path)
    assert len(calls) == 2


def test_what_is_no_plain_data_is_a_fault_of_the_plugin(context: Context):
    with pytest.raises(PluginError, match=r"holds a \w+, and only plain data"):
        context.apart("inspector:double", Path("x"), b"")


@pytest.mark.parametrize(("function", "kind"), [("inspector:nothing", "AttributeError"), ("nowhere:inspect", "ModuleNotFoundError")])
def test_a_function_that_is_not_there_is_told_of(context: Context, function: str, kind: str):
    with pytest.raises(ApartError, match=r"nothing|nowhere") as caught:
        context.apart(function)
    assert caught.value.kind == kind


def test_a_plugin_that_keeps_files_of_a_sealed_model_is_refused(tmp_path: Path) -> None:
    """It may know nothing of sealed models: it gets no folder to write to."""
    context = HookContext(name="hoarder", cache=None, store=Store(tmp_path))
    with pytest.raises(UnsupportedModel, match=r'"hoarder" keeps files that it derives .* take another plugin, or unseal the model'):
        _ = context.cache
    assert HookContext(name="other", cache=tmp_path, store=Store(tmp_path)).cache == tmp_path
