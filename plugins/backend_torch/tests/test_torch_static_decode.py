"""Decode steps of fixed shapes compute what steps of any shape do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llmasos_backend_torch.static_decode import Step, compiled, or_plain
from llmasos_hookspecs import CapacityExceeded, Engine, Row

Saved = Callable[[str], tuple[PreTrainedModel, Path]]


class Recorder:
    """Prepares nothing, and counts for how many shapes it was asked."""

    def __init__(self) -> None:
        self.shapes: list[int] = []

    def __call__(self, step: Step, given: tuple[torch.Tensor, ...]) -> Step:
        self.shapes.append(len(given[0]))
        return step


def play(made: Engine) -> list[np.ndarray]:
    """Sequences of unequal length that join, leave a hole, fork, and fill a slot to its last position."""
    rng = np.random.default_rng(3)
    results = []

    def tokens(count: int) -> list[int]:
        return [int(token) for token in rng.integers(3, 160, count)]

    def step(*rows: Row) -> None:
        results.extend(np.array(logits) for logits in made.step(rows))

    held: dict[int, int] = {}
    for length in (5, 90, 126):
        slot = made.open()
        step(Row(slot, tokens(length), 0))
        held[slot] = length
    for turn in range(8):
        if turn == 2:
            middle = list(held)[1]
            made.close(middle)
            del held[middle]
        if turn == 4:
            first = next(iter(held))
            held[made.fork(first)] = held[first]
            held[made.fork(first)] = held[first]
        rows = [Row(slot, tokens(1), at, "none" if turn == 3 and at > 100 else "last") for slot, at in held.items() if at < 128]
        step(*rows)
        for row in rows:
            held[row.slot] += 1
    made.shutdown()
    return results


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_fixed_shapes_change_nothing(name: str, saved: Saved, fused_engine: Callable[..., Engine]) -> None:
    """With holes, forks, full slots and windows, fixed shapes give the logits of the plain engine, through few shapes."""
    folder = saved(name)[1]
    recorder = Recorder()
    got, wanted = play(fused_engine(folder, recorder)), play(fused_engine(folder))
    for ours, plain in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-4)
    assert set(recorder.shapes) == {1, 4}  # three rows and four are one shape
    assert len(recorder.shapes) <= 4, "A shape is prepared once, unless the cache has grown."


def test_a_step_that_cannot_be_recorded_runs_as_it_is(
    saved: Saved, fused_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """A recording that fails costs a warning and no answer; one for which memory is short is the runtime's to see."""

    def refuse(step: Step, given: tuple[torch.Tensor, ...]) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def exhaust(step: Step, given: tuple[torch.Tensor, ...]) -> Step:
        raise torch.OutOfMemoryError("no memory")

    folder = saved("llama")[1]
    for ours, plain in zip(play(fused_engine(folder, or_plain(refuse))), play(fused_engine(folder)), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-4)
    assert "operation not permitted when stream is capturing" in caplog.text
    assert "and more" not in caplog.text
    made = fused_engine(folder, or_plain(exhaust))
    slot = made.open()
    made.step([Row(slot, [5, 6, 7, 8], 0, "none")])
    with pytest.raises(CapacityExceeded, match="no memory for this step"):
        made.step([Row(slot, [9], 4)])
    made.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in torch's own compiler
def test_compiled(saved: Saved, fused_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that torch.compile traces gives the same logits. A second layer takes it as long again."""

    def traced(step: Step, *, dynamic: bool, options: object) -> Step:
        made: Step = torch._dynamo.optimize("aot_eager", dynamic=dynamic)(step)
        return made

    monkeypatch.setattr(torch, "compile", traced)
    compare_compiled(saved("llama of one layer")[1], fused_engine)


@pytest.mark.slow
@pytest.mark.long  # g++ takes half a minute, and the logits are those of what is traced above
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in torch's own compiler
def test_compiled_in_c(saved: Saved, fused_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled step gives the same logits, by the whole compiler. Each layer takes it as long again, and each process of its own
    imports torch."""
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor, "compile_threads", 1)
    compare_compiled(saved("llama of one layer")[1], fused_engine)


def compare_compiled(folder: Path, fused_engine: Callable[..., Engine]) -> None:
    logits = []
    for made in (fused_engine(folder, compiled), fused_engine(folder)):
        slot = made.open()
        made.step([Row(slot, [5, 6, 7, 8], 0, "none")])
        logits.append(np.concatenate([np.array(made.step([Row(slot, [9], 4 + at)])[0]) for at in range(3)]))
        made.shutdown()
    np.testing.assert_allclose(*logits, atol=2e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(saved: Saved, load_engine: Callable[..., Engine]) -> None:
    """On a GPU decode steps are CUDA graphs and agree with the CPU."""
    folder = saved("llama")[1]
    got, wanted = play(load_engine(folder, device="cuda", dtype="float32")), play(load_engine(folder, dtype="float32"))
    for ours, plain in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-2)
