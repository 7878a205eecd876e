"""Replicas whose loader or engine fails, says what no other process understands, or does not come back."""

from __future__ import annotations

import subprocess
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core.tests.conftest import put_first

from llmasos.api.pipeline import Pipeline
from llmasos.compose.replicas import local
from llmasos.system.discovery import Registry
from llmasos_hookspecs import (
    Cancelled,
    EngineFailed,
    Generation,
    LLMasOSError,
    PluginError,
)
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.slow

SECONDS = 120.0  # after which a caller counts as one who waits for ever

LOADER = '''
    """A loader with one fault, which is not planted again once the file ``once`` is there."""

    import ctypes
    import os
    import threading

    import attrs
    from llmasos_hookspecs import Component, EngineFailed, hookimpl
    from llmasos_hookspecs.testing import ReferenceEngine

    class TwoArguments(EngineFailed):
        def __init__(self, what, why):
            super().__init__(f"{what}, because {why}")
            self.lock = threading.Lock()

    @attrs.frozen
    class Options:
        fault: str = ""
        at: str = "step"
        once: str = ""

    def strike(options, at):
        if options.at != at or (options.once and os.path.exists(options.once)):
            return
        if options.once:
            open(options.once, "w").close()
        if options.fault == "two arguments":
            raise TwoArguments("the plant withered", "nobody watered it")
        if options.fault == "exit":
            raise SystemExit(3)
        if options.fault == "stall":
            threading.Event().wait()
        if options.fault == "hold the interpreter":  # native code that never lets another thread run
            ctypes.PyDLL(None).sleep(600)

    class Faulty(ReferenceEngine):
        options = None

        def step(self, rows):
            strike(self.options, "step")
            return super().step(rows)

        def open(self):
            strike(self.options, "open")
            return super().open()

    @hookimpl
    def llmasos_component():
        return Component(summary="Fails.", options=Options)

    @hookimpl
    def llmasos_load(checkpoint, options, context):
        strike(options, "load")
        if options.fault == "text":
            return "engine"
        engine = Faulty(checkpoint, context.limits)
        engine.options = options
        return engine
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=path)
    return path


@pytest.fixture
def faulty(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]) -> Callable[..., Pipeline]:
    """``faulty(fault, at, once=..., **resources)``: a pipeline of two replicas of the tiny model on the loader above."""
    site = tmp_path / "site"
    info = site / "made_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "made_faulty.py").write_text(textwrap.dedent(LOADER), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-faulty\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[llmasos.loaders]\nfaulty = made_faulty\n", encoding="utf-8")
    put_first(monkeypatch, site)
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path / "home")))

    def make(fault: str, at: str, *, once: bool = False, **resources: Any) -> Pipeline:
        loader = {"use": "faulty", "fault": fault, "at": at, "once": str(tmp_path / "struck") if once else ""}
        model = {"source": str(folder), "replicas": 2, "context_length": 128}
        return Pipeline.from_config({"model": model, "loader": loader, "resources": resources}, registry=Registry())

    return make


def within_bound(call: Callable[[], Any]) -> Any:
    """What a call gives or raises; a failure where it takes too long."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, "waits for ever"
    return found[0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("two arguments", r"the plant withered, because nobody watered it"),
        pytest.param("exit", r'loader "faulty" \(made-faulty 1.0\) failed in llmasos_load: SystemExit: 3', marks=pytest.mark.long),
        ("text", r'loader "faulty" \(made-faulty 1.0\) returned a str without open'),
    ],
)
def test_a_loader_that_fails_in_its_replica_is_one_sentence(faulty: Callable[..., Pipeline], fault: str, said: str) -> None:
    """Whatever it raised: the sentence crosses, and loading and closing end."""
    pipeline = faulty(fault, "load")
    error = within_bound(pipeline.load)
    assert isinstance(error, LLMasOSError), error
    with pytest.raises(EngineFailed if fault == "two arguments" else PluginError, match=said):
        raise error
    assert within_bound(pipeline.close) is None


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        pytest.param("open", "two arguments", marks=pytest.mark.long),
        pytest.param("open", "exit", marks=pytest.mark.long),
        ("open", "stall"),
        ("step", "two arguments"),
        # test_replica_generated_faults.py has them.
        pytest.param("step", "exit", marks=pytest.mark.long),
        pytest.param("step", "stall", marks=pytest.mark.long),
    ],
)
def test_an_engine_that_fails_in_its_replica_keeps_nobody_waiting(faulty: Callable[..., Pipeline], fault: str, at: str) -> None:
    """Eight callers are answered or told, and the next request is served: by the same replica, or by the one started in its place."""
    with faulty(fault, at, once=True, step_timeout=2.0) as pipeline:
        model = within_bound(pipeline.load)
        tickets = [model._submit(f"prompt {n}", {"max_new_tokens": 8, "ignore_eos": True}) for n in range(8)]
        outcomes = [within_bound(ticket.result) for ticket in tickets]
        for outcome in outcomes:
            assert isinstance(outcome, Generation | EngineFailed), outcome
        told = [str(each) for each in outcomes if isinstance(each, EngineFailed)]
        assert all('loader "faulty" (made-faulty 1.0)' in each for each in told), told
        assert told or at == "open"  # requests that had not begun are served by the next engine
        again = within_bound(lambda: model.generate("again", max_new_tokens=4, ignore_eos=True))
        assert len(again.tokens) == 4
    assert within_bound(pipeline.close) is None


def test_a_replica_that_holds_the_interpreter_is_ended_from_outside(faulty: Callable[..., Pipeline]) -> None:
    """No thread of its own can help: the parent ends it, has the request computed by another, and starts one in its place."""
    with faulty("hold the interpreter", "step", once=True, step_timeout=2.0) as pipeline:
        model = within_bound(pipeline.load)
        before = {each["pid"] for each in model.usage()["replicas"]}
        answer = within_bound(lambda: model.generate("x", max_new_tokens=4, ignore_eos=True))
        assert isinstance(answer, Generation), answer
        assert {each["pid"] for each in model.usage()["replicas"]} != before
        assert len(within_bound(lambda: model.generate("again", max_new_tokens=4, ignore_eos=True)).tokens) == 4


def test_a_deadline_is_kept_by_a_replica_that_does_not_come_back(faulty: Callable[..., Pipeline]) -> None:
    """The caller hears of it at the deadline; closing ends the process."""
    with faulty("stall", "step") as pipeline:
        model = within_bound(pipeline.load)
        error = within_bound(lambda: model.generate("late", max_new_tokens=4, deadline=0.5))
        assert isinstance(error, Cancelled), error
        assert within_bound(pipeline.close) is None


def test_replicas_import_nothing_from_the_working_folder(
    faulty: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder full of modules with the names of our libraries is no part of the interpreters that serve a model."""
    decoys = tmp_path / "decoys"
    (decoys / "pip").mkdir(parents=True)
    canary = f"open({str(tmp_path / 'canary')!r}, 'a').write(__file__)\n"
    for name in ("attrs.py", "attr.py", "numpy.py", "pluggy.py", "sitecustomize.py", "usercustomize.py", "json.py", "pip/__init__.py"):
        (decoys / name).write_text(canary, encoding="utf-8")
    monkeypatch.chdir(decoys)
    monkeypatch.setattr(local, "subprocess", subprocess)
    with faulty("", "") as pipeline:
        assert len(pipeline.load().generate("x", max_new_tokens=3, ignore_eos=True).tokens) == 3
    assert not (tmp_path / "canary").exists(), (tmp_path / "canary").read_text()
