"""The Python API in the life of a process: threads, forks, its end, and what notebooks show."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.forked_children import ForkedChildren

import llmasos
from llmasos_hookspecs.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return folder


@pytest.fixture(scope="module")
def model(tiny: Path):
    with llmasos.load_model(tiny, loader="onnx", threads=1) as found:
        yield found


Process = Callable[[str], subprocess.CompletedProcess[str]]


def program(tiny: Path, code: str) -> str:
    """A program that has a loaded model in ``model``, and says what it leaves open."""
    load = f"llmasos.load_model({str(tiny)!r}, loader='onnx', threads=1)"
    warned = "import warnings\nwarnings.simplefilter('default', ResourceWarning)\n"
    return f"{warned}import asyncio, llmasos, multiprocessing, os, sys, threading\nmodel = {load}\n{textwrap.dedent(code)}"


@pytest.fixture
def process(tiny: Path, children: ForkedChildren, tmp_path: Path) -> Process:
    """Runs a program as a fork of an interpreter that has imported what it does; it ends as any does."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", program(tiny, code)]
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = children.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            return subprocess.CompletedProcess(command, child.wait(120), out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
        finally:
            child.kill()

    return run


def test_many_threads_do_many_things(model):
    """Generations, streams that are left, scores and logits at once give what they give alone."""
    prompts = [f"prompt {n}" for n in range(8)]
    expected = [model.generate_text(prompt, max_new_tokens=12) for prompt in prompts]
    scores = model.score("Hello", [" a", " b"])
    wrong: list[str] = []

    def work(place: int) -> None:
        for turn in range(4):
            if model.generate_text(prompts[place], max_new_tokens=12) != expected[place]:
                wrong.append(f"text {place}, turn {turn}")
            stream = model.stream_text(prompts[place], max_new_tokens=500, ignore_eos=True)
            next(stream)
            stream.close()
            if model.score("Hello", [" a", " b"])[1].logprob != pytest.approx(scores[1].logprob, abs=1e-4):
                wrong.append(f"score {place}, turn {turn}")
            if model.logits([1, 2, 3]).shape != (3, 288):
                wrong.append(f"logits {place}, turn {turn}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    model.generate_text("x", max_new_tokens=1)
    assert (model.usage()["running"], model.usage()["waiting"]) == (0, 0)


def test_a_batch_tells_how_far_it_is(model):
    """One call for each prompt that is done; an error of the caller's ends what is left."""
    told: list[tuple[int, int]] = []
    model.batch(["a", "b", "c"], progress=lambda done, total: told.append((done, total)), max_new_tokens=3)
    assert told == [(1, 3), (2, 3), (3, 3)]

    def give_up(done: int, total: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        model.batch(["a"] * 20, progress=give_up, max_new_tokens=500, ignore_eos=True)
    model.generate_text("x", max_new_tokens=1)
    assert (model.usage()["running"], model.usage()["waiting"]) == (0, 0)


def test_what_is_shown_says_what_it_is(tiny, model):
    """Reprs in one line, and a table for notebooks, with nothing that breaks HTML."""
    text = repr(model)
    assert "\n" not in text
    for part in ("default", str(tiny), "onnx", "fifo", "loaded"):
        assert part in text
    table = model._repr_html_()
    assert table.count("<tr>") == table.count("</tr>") > 5
    assert str(tiny) in table
    assert repr(model.pipeline) == "<Pipeline: default (loaded)>"


@pytest.mark.skipif(not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="Windows cannot fork.")
def test_a_forked_child_is_told_to_load_again(process: Process):
    """The child hangs neither in a call nor at its end, and the parent goes on."""
    done = process(
        """
        stream = model.stream_text("Hello", max_new_tokens=800, ignore_eos=True)
        next(stream)
        child = os.fork()
        if child == 0:
            calls = (lambda: model.generate_text("x"), lambda: model.logits([1]), lambda: list(stream), lambda: model.score("a", ["b"]))
            for call in calls:
                try:
                    call()
                except llmasos.LLMasOSError as error:
                    print(type(error).__name__, "load it again here" in str(error), flush=True)
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print("parent", len("".join(stream)) > 0, flush=True)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["ModelClosed True"] * 4 + ["child 7", "parent True"]
    assert done.stderr == ""


def test_a_stream_that_nobody_reads_is_cancelled(model):
    """Closed or dropped before its first piece, too."""
    model.stream_text("Hello", max_new_tokens=900, ignore_eos=True).close()
    model.stream_text("Hello", max_new_tokens=900, ignore_eos=True)
    model.generate("x", max_new_tokens=1)
    usage = model.usage()
    assert (usage["running"], usage["waiting"]) == (0, 0)


INTERRUPTED = """
    import signal, time

    def interrupt():
        waiter = threading.main_thread().ident
        while not model.usage()["running"] or sys._current_frames()[waiter].f_code.co_name != "_next":  # in a wait of core
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    long = {"max_new_tokens": 900, "ignore_eos": True}
    for call in (lambda: model.generate("Hello", **long), lambda: model.generate("Hello", n=3, temperature=1.0, **long)):
        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            while True:
                call()
        except KeyboardInterrupt:
            pass
        thread.join()
        model.generate("x", max_new_tokens=1)
        usage = model.usage()
        print(usage["running"], usage["waiting"])
    model.close()
"""


def test_an_interrupted_call_leaves_nothing_running(process: Process):
    """Ctrl-C in a call that waits cancels its requests, one or many; in a process of its own, which gets the signal alone."""
    done = process(INTERRUPTED)
    assert (done.returncode, done.stdout) == (0, "0 0\n0 0\n"), done.stderr


_LONG = "max_new_tokens=900, ignore_eos=True"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (f"stream = model.stream_text('Hello', {_LONG}); next(stream)", 0),
        (
            f"""
            async def main():
                tasks = [asyncio.create_task(model.agenerate('Hello', {_LONG})) for _ in range(3)]
                async for _ in model.astream_text('Hello', {_LONG}):
                    sys.exit(4)
            asyncio.run(main(), debug=False)
            """,
            4,
        ),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in [
                (f"next(model.stream_text('Hello', {_LONG}))", 0),
                ("asyncio.run(asyncio.wait_for(model.agenerate('Hello', max_new_tokens=4), 60), debug=False)", 0),
                ("model.pipeline.close()", 0),
                ("del model", 0),
                (
                    f"""
                    with model:
                        next(model.stream_text('Hello', {_LONG}))
                        sys.exit(3)
                    """,
                    3,
                ),
            ]
        ),
    ],
)
def test_a_program_ends_in_the_middle_of_anything(process: Process, ending, code):
    """Without closing the model it neither hangs nor says anything."""
    done = process(ending)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_threads_that_a_program_leaves_behind_end_quietly(process: Process):
    """Daemon threads in the middle of a stream, of call after call, and of an event loop."""
    done = process(
        f"""
        begun = [threading.Event() for _ in range(3)]
        def stream():
            for piece in model.stream_text('Hello', {_LONG}):
                begun[0].set()
        def call():
            while True:
                try:
                    model.generate_text('Hello', max_new_tokens=2, ignore_eos=True)
                except Exception as error:
                    print(error)
                begun[1].set()
        async def await_all():
            await asyncio.gather(model.agenerate('Hello', {_LONG}), read())
        async def read():
            async for piece in model.astream_text('Hello', {_LONG}):
                begun[2].set()
        for target in (stream, call, lambda: asyncio.run(await_all(), debug=False)):
            threading.Thread(target=target, daemon=True).start()
        for event in begun:
            event.wait()
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_spawned_process_loads_a_model_of_its_own(process: Process, tiny: Path):
    """It ends in the middle of a stream, and the parent's model goes on."""
    load = f"llmasos.load_model({str(tiny)!r}, loader='onnx', threads=1)"
    work = f"import llmasos; model = {load}; next(model.stream_text('Hello', {_LONG}))"
    done = process(
        f"""
        stream = model.stream_text('Hello', {_LONG})
        child = multiprocessing.get_context('spawn').Process(target=exec, args=({work!r},))
        child.start()
        child.join()
        print(child.exitcode, len(''.join(stream)) > 0)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 True\n", "")


def test_a_closed_model_leaves_no_thread(process: Process):
    done = process("model.generate_text('x', max_new_tokens=2); model.close(); print([each.name for each in threading.enumerate()])")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['MainThread']\n", "")
