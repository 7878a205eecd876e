"""``SandboxContext.apart``: each call runs in a process of its own, as a function on untrusted bytes must."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import ApartError, ApartLimits, CheckpointError, PluginError
from llmasos_hookspecs.testing import SandboxContext

_MODULE = """
import os, threading, time
from llmasos_hookspecs import CheckpointError

COUNT = 0

def count():
    global COUNT
    COUNT += 1
    print("not the answer", flush=True)
    os.write(1, b"nor this")
    return [COUNT, os.getpid(), threading.active_count()]

def seen():
    return [os.getcwd(), os.environ.get("LLMASOS_SEEN")]

def refuse(path):
    raise CheckpointError(f"{path} is damaged.")

def crash():
    os.abort()

def wait(seconds):
    time.sleep(seconds)
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a function of a module that is written for the test, with ``extra`` code if the test has set it."""
    (tmp_path / "untrusted.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    context = SandboxContext(root=tmp_path)

    def call(name: str, *arguments: Any, seconds: float = 60) -> Any:
        return context.apart(f"untrusted:{name}", *arguments, limits=ApartLimits(seconds=seconds))

    return call


def test_no_call_finds_what_another_left(call: Callable[..., Any]) -> None:
    """Each has a process of its own, where the module was just imported; what it prints is not the answer."""
    one, two = call("count"), call("count")
    assert one[0] == two[0] == 1
    assert len({one[1], two[1], os.getpid()}) == 3


def test_it_runs_where_the_tests_are(call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working folder and with the environment of the moment of the call."""
    assert call("seen") == [os.getcwd(), None]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMASOS_SEEN", "yes")
    assert call("seen") == [str(tmp_path), "yes"]


def test_what_it_raises_arrives(call: Callable[..., Any]) -> None:
    """An error of the contract by its class; another, a crash, and one that takes too long as ``ApartError``; the next call works."""
    with pytest.raises(CheckpointError, match=r"^model.bin is damaged.$"):
        call("refuse", "model.bin")
    with pytest.raises(ApartError, match="missing 1 required"):
        call("refuse")
    with pytest.raises(ApartError, match="crashes") as crashed:
        call("crash")
    assert crashed.value.stopped
    assert call("count")[0] == 1
    with pytest.raises(ApartError, match=r"longer than 0.1 seconds") as late:
        call("wait", 600, seconds=0.1)
    assert late.value.stopped
    assert call("count")[0] == 1
    with pytest.raises(PluginError, match="fault of the plugin"):
        call("refuse", object())


@pytest.mark.parametrize(
    ("import_time", "threads"),
    [("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", 2), ("os.abort()", 0), ("raise SystemExit(3)", 0)],
    ids=["starts a thread", "crashes", "ends"],
)
def test_a_module_may_do_anything_when_it_is_imported(import_time: str, threads: int, call: Callable[..., Any], tmp_path: Path) -> None:
    """Its threads are there in the call; where it ends the process the call fails."""
    (tmp_path / "untrusted.py").write_text(f"{_MODULE}\n{import_time}\n")
    for _ in range(2):
        if threads:
            assert call("count")[::2] == [1, threads]
        else:
            with pytest.raises(ApartError):
                call("count")
