"""The Python API in the life of a process: threads, forks, its end, and what notebooks show."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

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


def process(tiny: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has a loaded model in ``model``."""
    head = f"import llmasos, os, sys, threading\nmodel = llmasos.load_model({str(tiny)!r}, loader='onnx', threads=1)\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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
def test_a_forked_child_is_told_to_load_again(tiny):
    """The child hangs neither in a call nor at its end, and the parent goes on."""
    done = process(
        tiny,
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


@pytest.mark.parametrize(
    "ending",
    [
        "next(model.stream_text('Hello', max_new_tokens=900, ignore_eos=True))",
        "stream = model.stream_text('Hello', max_new_tokens=900, ignore_eos=True); next(stream)",
        "import asyncio; asyncio.run(asyncio.wait_for(model.agenerate('Hello', max_new_tokens=4), 60))",
        "model.pipeline.close()",
        "del model",
    ],
)
def test_a_program_ends_in_the_middle_of_anything(tiny, ending):
    """Without closing the model it neither hangs nor says anything."""
    done = process(tiny, ending)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
