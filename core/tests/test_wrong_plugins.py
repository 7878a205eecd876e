"""Plugins that do the wrong thing, in a whole pipeline: one sentence that names them, and nobody waits."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.tests.cli.fork_server import ForkServer, with_plugins
from typer.testing import CliRunner

from llmasos.api import resources
from llmasos.api.pipeline import Pipeline
from llmasos.cli.app import app
from llmasos.system.config_check import check_config
from llmasos.system.config_schema import config_schema
from llmasos.system.discovery import Registry
from llmasos.system.sources import resolve
from llmasos_config import Config
from llmasos_hookspecs import PluginError, RequestError, ResourceError
from llmasos_plugin_calls import observer as observers
from llmasos_plugin_calls.guarded_task import guarded
from llmasos_plugin_calls.observer import Audience, Observer

SECONDS = 120.0  # after which somebody counts as one who waits for ever
HEAD = "import attrs\nfrom pathlib import Path\nfrom llmasos_hookspecs import *\n"
COMPONENT = HEAD + "@hookimpl\ndef llmasos_component(): return Component(summary='Wrong.')\n"

# Observers

OBSERVER = """
    import threading
    import attrs
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class Options:
        to: str = "nobody"

    told, standing, release, pipelines = [], threading.Event(), threading.Event(), []

    @hookimpl
    def llmasos_component(): return Component(summary="Told.", options=Options)

    @hookimpl
    def llmasos_pipeline_ready(pipeline, options, context):
        pipelines.append(pipeline)
        told.append(("ready", options.to, context.name))

    @hookimpl
    def llmasos_request_finished(record, options, context):
        told.append(("finished", options.to, context.name))
        DEED

    @hookimpl
    def llmasos_pipeline_closed(options): told.append(("closed", options.to))
"""


def test_observers_get_their_options_and_a_context(pipeline_of: Any, add: Any) -> None:
    """The same observer may be named twice, each time with options of its own."""
    module = add("observer", "ear", OBSERVER.replace("DEED", "pass"))
    with pipeline_of(observers=[{"use": "ear", "to": "a"}, {"use": "ear", "to": "b"}]) as pipeline:
        pipeline.model.generate("x", max_new_tokens=2)
    for to in "ab":
        mine = [each for each in module().told if each[1] == to]
        assert mine == [("ready", to, "ear"), ("finished", to, "ear"), ("closed", to)]


def test_nobody_waits_for_an_observer(pipeline_of: Any, add: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """While it stands still requests are answered; what it cannot take is dropped, counted and shown; closing leaves it behind."""
    monkeypatch.setattr(observers, "WAITING", 3)
    monkeypatch.setattr(observers, "CLOSE_SECONDS", 0.2)
    module = add("observer", "ear", OBSERVER.replace("DEED", "standing.set(); release.wait()"))
    pipeline = pipeline_of(observers=["ear"])
    assert pipeline.model.generate("x", max_new_tokens=1).tokens
    assert module().standing.wait(SECONDS)
    for _ in range(7):
        assert pipeline.model.generate("x", max_new_tokens=1).tokens
    (state,) = pipeline.observers()
    assert state["waiting"] == 3
    assert state["dropped"] >= 3
    assert 'observer "ear" (made-ear 1.0) is too slow' in caplog.text
    assert resources.usage()["observers"] == [state]
    shown = CliRunner().invoke(app, ["ps"])
    assert shown.exit_code == 0
    counts = [str(os.getpid()), state["observer"], "3", str(state["dropped"])]
    assert shown.output.splitlines()[-2:] == ["\t".join(row) for row in (["pid", "observer", "waiting", "dropped"], counts)]
    assert "dropped" in CliRunner().invoke(app, ["top", "--count", "1"]).output
    pipeline.close()
    assert resources.usage()["observers"] == []
    assert "is left behind" in caplog.text
    module().release.set()


@pytest.mark.parametrize(
    "deed",
    ["len(told) < 4 and pipelines[0].model.generate('y')", "pipelines[0].close()", "pipelines[0].use_scheduler('fifo')"],
)
def test_an_observer_may_call_the_pipeline(pipeline_of: Any, add: Any, deed: str) -> None:
    """What it calls is served, or is over; nothing waits for itself."""
    module = add("observer", "ear", OBSERVER.replace("DEED", deed))
    with pipeline_of(observers=["ear"]) as pipeline:
        ticket = pipeline.model._submit("x", {"max_new_tokens": 2})
        assert ticket.result(SECONDS).tokens
    assert pipeline.audience._observers[0].finish(SECONDS)  # it may be its own thread that closes the pipeline
    assert ("closed", "nobody") in module().told


@pytest.mark.parametrize("error", ["RuntimeError('no')", "SystemExit(3)", "KeyboardInterrupt()", "MemoryError()"])
def test_an_observer_that_raises_is_told_the_next_thing(pipeline_of: Any, add: Any, error: str, caplog: Any) -> None:
    """Its error is logged with its name."""
    module = add("observer", "ear", OBSERVER.replace("DEED", f"raise {error}"))
    with pipeline_of(observers=["ear"]) as pipeline:
        for _ in range(3):
            assert pipeline.model.generate("x", max_new_tokens=1).tokens
    assert [each[0] for each in module().told] == ["ready", *["finished"] * 3, "closed"]
    assert caplog.text.count('observer "ear" (made-ear 1.0)') == 3


def test_an_observer_hears_things_in_order_and_its_thread_ends(caplog: pytest.LogCaptureFixture) -> None:
    """From any number of threads; nothing is left running once there is nothing to tell."""
    heard: list[int] = []
    before = set(threading.enumerate())
    each = Observer("ear", lambda _hook, number: heard.append(number))
    for number in range(500):
        each.tell("hook", number=number)
    Audience([each], open_to_listeners=False).close("hook", number=500)
    assert heard == list(range(501))
    assert each.describe() == {"observer": "ear", "waiting": 0, "dropped": 0}
    for thread in set(threading.enumerate()) - before:
        thread.join(SECONDS)
        assert not thread.is_alive()


# Sources

SOURCE = """
    import attrs
    from pathlib import Path
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class Options:
        root: str = "/nowhere"

    @hookimpl
    def llmasos_component(): return Component(summary="Shelves.", options=Options, schemes=("shelf",))

    @hookimpl
    def llmasos_fetch(ref, options, context):
        return Path(options.root) / ref.removeprefix("shelf:") if ref.startswith("shelf:") else None
"""


def test_a_source_gets_its_options(add: Any, tiny: Path, reference_loader: str) -> None:
    """From ``[sources.NAME]``, which is checked and in the schema as any other component is."""
    add("source", "shelf", SOURCE)
    add("loader", "reference", reference_loader)
    model = {"source": f"shelf:{tiny.name}"}
    config = {"model": model, "loader": "reference", "sources": {"shelf": {"root": str(tiny.parent)}}}
    with Pipeline.from_config(config, registry=Registry()) as pipeline:
        assert pipeline.model.generate("x", max_new_tokens=2).tokens
        assert pipeline.config.to_mapping()["sources"] == {"shelf": {"use": "shelf", "root": str(tiny.parent)}}
    wrong = Config.from_mapping({**config, "sources": {"shelf": {"rot": "x"}, "other": {"use": "none"}}})
    found = " ".join(str(each) for each in check_config(wrong, Registry()))
    assert "sources.shelf.rot" in found
    assert "sources.other.use" in found
    schema = config_schema(Registry())
    assert schema["properties"]["sources"]["additionalProperties"] == {"$ref": "#/$defs/source"}
    assert "root" in str(schema["$defs"]["source"])


@pytest.mark.parametrize("raises", ["KeyError('x')", "SystemExit(3)", "MemoryError()", "GeneratorExit()"])
def test_a_source_that_raises_is_one_sentence(add: Any, raises: str) -> None:
    """With the source's name, and what memory is short of where it is."""
    add("source", "shelf", SOURCE.replace("return Path(options.root)", f"raise {raises}\n        return Path(options.root)"))
    with pytest.raises(ResourceError if "Memory" in raises else PluginError, match=r'source "shelf" \(made-shelf 1.0\)') as caught:
        resolve("shelf:x", registry=Registry())
    assert ("fault of the plugin" in str(caught.value)) == ("Memory" not in raises)


@pytest.mark.parametrize(
    ("answer", "said"),
    [("'text'", "a str and no Path"), ("Path('/no/such/place')", "no path there"), ("object()", "an object and no Path")],
)
def test_a_source_that_answers_with_no_path_is_at_fault(add: Any, answer: str, said: str) -> None:
    """Whatever it returned."""
    add("source", "shelf", SOURCE.replace("return Path(options.root)", f"return {answer} if ref else Path(options.root)"))
    with pytest.raises(PluginError, match=said):
        resolve("shelf:x", registry=Registry())


def test_a_source_that_follows_dots_out_of_its_place_is_at_fault(add: Any, tiny: Path) -> None:
    """A reference is no way to any folder of the machine."""
    add("source", "shelf", SOURCE)
    shelf = tiny.parent / "shelf"
    shelf.mkdir(exist_ok=True)
    sources = Config.from_mapping({"sources": {"shelf": {"root": str(shelf)}}}).sources.values()
    with pytest.raises(PluginError, match=r'source "shelf" \(made-shelf 1.0\) was led out of its place by shelf:\.\./tiny'):
        resolve("shelf:../tiny", registry=Registry(), sources=sources)


# Tasks

TASK = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class In:
        text: str

    @attrs.frozen
    class Out:
        text: str

    class Mine:
        inputs, output = In, Out

        def run(self, model, inputs):
            RUN

        def stream(self, model, inputs):
            yield "one"
            STREAM

    @hookimpl
    def llmasos_component(): return Component(summary="Wrong.")

    @hookimpl
    def llmasos_create_task(options, context): return Mine()
"""

RAISED = {
    "KeyError('lost')": (PluginError, r"failed in {}: KeyError: 'lost'; this is a fault"),
    "SystemExit(3)": (PluginError, r"failed in {}: SystemExit: 3"),
    "GeneratorExit()": (PluginError, r"failed in {}: GeneratorExit"),
    "StopIteration(1)": (PluginError, r"failed in {}: \w+"),
    "MemoryError()": (ResourceError, r"ran out of memory in {}"),
}


@pytest.mark.parametrize("raised", RAISED)
def test_a_task_that_raises_is_one_sentence(pipeline_of: Any, add: Any, raised: str) -> None:
    """From ``run`` and in the middle of ``stream``, with its name."""
    add("task", "mine", TASK.replace("RUN", f"raise {raised}").replace("STREAM", f"raise {raised}"))
    pipeline = pipeline_of()
    kind, said = RAISED[raised]
    with pytest.raises(kind, match=r'task "mine" \(made-mine 1.0\) ' + said.format("run")):
        pipeline.run("mine", text="x")
    pieces = pipeline.stream("mine", text="x")
    assert next(pieces) == "one"
    with pytest.raises(kind, match=r'task "mine" \(made-mine 1.0\) ' + said.format("stream")):
        next(pieces)


def test_an_input_with_the_name_of_an_argument_is_refused(pipeline_of: Any, add: Any) -> None:
    """It could not be given: ``model.run`` and the verb ``task`` have arguments by that name."""
    for name in ("model", "output", "batch"):
        add("task", f"takes_{name}", TASK.replace("text: str", f"{name}: str", 1))
        with pytest.raises(PluginError, match=f"a task with the input {name}, which is a name of an argument"):
            pipeline_of().task(f"takes_{name}")


def test_what_a_task_means_to_raise_stays(pipeline_of: Any, add: Any) -> None:
    """Its own sentences are for the caller."""
    add("task", "mine", TASK.replace("RUN", "from llmasos_hookspecs import RequestError; raise RequestError('Empty.')"))
    with pytest.raises(RequestError, match=r"^Empty\.$"):
        pipeline_of().run("mine", text="x")


def test_a_task_that_returns_another_type_is_at_fault(pipeline_of: Any, add: Any) -> None:
    """It is said which."""
    add("task", "mine", TASK.replace("RUN", "return 'text'").replace("STREAM", "yield 3"))
    pipeline = pipeline_of()
    with pytest.raises(PluginError, match=r'task "mine" \(made-mine 1.0\) returned a str from run, and its output is Out'):
        pipeline.run("mine", text="x")
    with pytest.raises(PluginError, match="gave an int from stream"):
        list(pipeline.stream("mine", text="x"))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("yield 3", "gave an int from events, and every piece must be text, a call or the output"),
        ("yield 'one'", "ended events without its output"),
        ("from llmasos_hookspecs import TaskOutput; yield TaskOutput('text')", "ended events with a str, and its output is Out"),
        ("raise KeyError('lost')", "events"),
    ],
)
def test_a_task_that_tells_what_is_no_event_is_at_fault(pipeline_of: Any, add: Any, told: str, sentence: str) -> None:
    text = TASK.replace("RUN", "return Out('text')")
    add("task", "mine", text.replace("    def stream", f"    def events(self, model, inputs):\n            {told}\n\n        def stream"))
    pipeline = pipeline_of()
    with pytest.raises(PluginError, match=rf'task "mine" \(made-mine 1.0\) .*{sentence}'):
        list(pipeline.events_on(pipeline.model, "mine", {"text": "x"}))


def test_leaving_a_stream_early_ends_the_tasks_own() -> None:
    """Its generator is closed, so that the request behind it ends."""
    closed: list[bool] = []

    class Task:
        inputs = output = type

        def run(self, model: Any, inputs: Any) -> Any: ...

        def stream(self, model: Any, inputs: Any) -> Iterator[str]:
            try:
                while True:
                    yield "piece"
            finally:
                closed.append(True)

        events = stream

    for pieces in (guarded(Task(), "task").stream(None, None), guarded(Task(), "task").events(None, None)):
        assert next(pieces) == "piece"
        pieces.close()
    assert closed == [True, True]


def test_a_task_that_stands_still_holds_nobody_else_up(pipeline_of: Any, add: Any) -> None:
    """Others are served, and the pipeline closes."""
    add("task", "mine", TASK.replace("RUN", "import threading; threading.Event().wait()"))
    pipeline = pipeline_of()
    threading.Thread(target=lambda: pipeline.run("mine", text="x"), daemon=True).start()
    assert pipeline.model._submit("x", {"max_new_tokens": 2}).result(SECONDS).tokens
    began = time.monotonic()
    pipeline.close()
    assert time.monotonic() - began < SECONDS


# What hooks return

WRONG = {
    "loader": ("llmasos_load", r"returned an? {} without open, step, truncate, fork, close, shutdown from llmasos_load"),
    "scheduler": ("llmasos_create_scheduler", r"returned an? {} without admit, rank, victim, quantum, on_commit from"),
    "task": ("llmasos_create_task", r"returned an? {} without run from"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("answer", ["'text'", "object()", "3", "[1]"])
def test_a_hook_that_returns_something_else_is_one_sentence(pipeline_of: Any, add: Any, kind: str, answer: str) -> None:
    """Before anything is done with it."""
    hook, said = WRONG[kind]
    add(kind, "wrong", COMPONENT + f"@hookimpl\ndef {hook}(): return {answer}\n")
    pipeline = pipeline_of(**({} if kind == "task" else {kind: "wrong"}))
    with pytest.raises(PluginError, match=said.format(type(eval(answer)).__name__)):
        pipeline.run("wrong") if kind == "task" else pipeline.load()


INTERRUPTED = """
import signal, threading
from llmasos_hookspecs.testing import ReferenceEngine

calls = []

@hookimpl
def llmasos_load(checkpoint, context):
    calls.append(checkpoint)
    if len(calls) == 1:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Event().wait()
    return ReferenceEngine(checkpoint, context.limits)
"""


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "RuntimeError()"])
def test_a_loader_that_ends_the_program_does_not(pipeline_of: Any, add: Any, raised: str) -> None:
    """On any thread but the main one a Ctrl-C is the plugin's own."""
    add("loader", "wrong", COMPONENT + f"@hookimpl\ndef llmasos_load(): raise {raised}\n")
    pipeline = pipeline_of(loader="wrong")
    found: list[BaseException] = []

    def load() -> None:
        try:
            pipeline.load()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join(SECONDS)
    assert isinstance(found[0], PluginError)
    assert 'loader "wrong" (made-wrong 1.0) failed in llmasos_load' in str(found[0])


def test_ctrl_c_stays_what_it_is(add: Any, tiny: Path, tmp_path: Path, fork_server: ForkServer) -> None:
    """It interrupts the caller while a plugin stands still, and the next caller is served."""
    add("loader", "wrong", COMPONENT + INTERRUPTED)
    config = {"model": {"source": str(tiny)}, "loader": "wrong"}
    code = f"""if True:
        from llmasos.api.pipeline import Pipeline
        with Pipeline.from_config({config!r}) as pipeline:
            try:
                pipeline.load()
            except KeyboardInterrupt:
                print("interrupted")
            print(len(pipeline.model.generate("x", max_new_tokens=2).tokens))
    """
    done = fork_server.said(folder=tmp_path, **with_plugins(tmp_path, code))
    assert (done.returncode, done.stdout) == (0, "interrupted\n2\n"), done.stderr


def test_a_wrong_task_is_one_line_at_the_command_line(
    add: Any, tiny: Path, tmp_path: Path, reference_loader: str, fork_server: ForkServer
) -> None:
    """No traceback, and an exit status."""
    add("loader", "reference", reference_loader)
    add("task", "mine", TASK.replace("RUN", "raise KeyError('lost')").replace("def stream", "def other"))
    arguments = ["task", "mine", "--text", "x", "--model", str(tiny), "--loader", "reference"]
    done = fork_server.said(*arguments, folder=tmp_path, **with_plugins(tmp_path))
    assert done.returncode == 1, done.stderr
    assert 'Error: The task "mine" (made-mine 1.0) failed in run: KeyError' in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """A slow observer is warned of once, however much it misses."""
    gate = threading.Event()
    slow = Observer("ear", lambda _hook: gate.wait())
    with caplog.at_level(logging.WARNING):
        for _ in range(observers.WAITING + 100):
            slow.tell("hook")
    assert caplog.text.count("too slow") == 1
    assert slow.dropped >= 99
    gate.set()
    assert slow.finish(SECONDS)
