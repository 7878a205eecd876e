"""A student learns, stops, and goes on where it was killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch

from llmasos_accel_distill import Options, llmasos_accelerate, stage, state as run_state
from llmasos_accel_distill.data import Sequences
from llmasos_accel_distill.loss import divergence, state_error, teaching_layers
from llmasos_accel_distill.plan import plan_distillation
from llmasos_accel_distill.state import RunFolder
from llmasos_accel_distill.training import schedule
from llmasos_hookspecs import AccelerationError, AccelerationResult, Checkpoint
from llmasos_hookspecs.testing import (
    AcceleratorConformance,
    PluginSandbox,
    SandboxContext,
    TinyCheckpoint,
    read_folder,
    tiny_checkpoint,
)
from llmasos_torch_decoder import load_decoder

QUICK: Mapping[str, Any] = {
    "steps": 30,
    "windows": 24,
    "held_out": 4,
    "length": 32,
    "evaluate_every": 10,
    "checkpoint_every": 10,
    "warmup": 3,
}


def teacher_and_student(case: str = "llama") -> tuple[TinyCheckpoint, TinyCheckpoint]:
    """A model, and the same one with noise on its linears, as a pruning stage would leave it."""
    teacher = tiny_checkpoint(case)
    rng = np.random.default_rng(5)
    noisy = {
        name: (tensor + 0.05 * rng.standard_normal(tensor.shape)).astype(np.float32) if name.endswith("_proj.weight") else tensor
        for name, tensor in teacher.tensors.items()
    }
    return teacher, attrs.evolve(teacher, tensors=noisy)


def shallow(teacher: TinyCheckpoint) -> TinyCheckpoint:
    """The teacher without its last layer."""
    tensors = {name: tensor for name, tensor in teacher.tensors.items() if ".layers.1." not in name}
    return attrs.evolve(teacher, config={**teacher.config, "num_hidden_layers": 1}, tensors=tensors)


def run(base: Checkpoint | None, student: TinyCheckpoint, root: Path, **options: Any) -> tuple[TinyCheckpoint, AccelerationResult]:
    context = SandboxContext(root=root, base=base)
    result = llmasos_accelerate(student, root / "out", Options(**{**QUICK, **options}), context)
    return read_folder(result.path), result


def kl(teacher: TinyCheckpoint, student: TinyCheckpoint) -> float:
    tokens = torch.from_numpy(np.random.default_rng(77).integers(0, 256, (4, 64)))
    with torch.no_grad():
        return float(divergence(load_decoder(teacher)(tokens), load_decoder(student)(tokens)))


class TestConformance(AcceleratorConformance):
    module = "llmasos_accel_distill"
    cases = ("llama", "qwen2")
    options: ClassVar = {**QUICK, "steps": 4, "evaluate_every": 2}

    def accelerate(
        self, sandbox: PluginSandbox, checkpoint: Checkpoint, root: Path, output: str = "out", seed: int = 0
    ) -> AccelerationResult:
        teacher = tiny_checkpoint("llama", seed=99) if checkpoint.config["model_type"] == "llama" else tiny_checkpoint("qwen2", seed=99)
        context = SandboxContext(root=root, seed=seed, base=teacher)
        return sandbox.call(
            "llmasos_accelerate", checkpoint=checkpoint, output=root / output, options=self.plugin_options(sandbox), context=context
        )


@pytest.mark.parametrize("source", ["both", *(pytest.param(source, marks=pytest.mark.long) for source in ("text", "samples"))])
def test_the_divergence_from_the_teacher_falls_on_text_never_trained_on(tmp_path: Path, source: str) -> None:
    teacher, student = teacher_and_student("qwen2")
    written, result = run(teacher, student, tmp_path, steps=60, batch=4, source=source, samples=16, learning_rate=2e-3)
    assert kl(teacher, written) < 0.75 * kl(teacher, student)
    assert result.report["held_out_after"] < 0.75 * result.report["held_out_before"]


def test_a_shallow_student_learns_hidden_states_too(tmp_path: Path) -> None:
    teacher, noisy = teacher_and_student("llama")
    student = shallow(noisy)
    written, result = run(teacher, student, tmp_path, steps=80, batch=4, learning_rate=3e-3)
    assert result.report["hidden"] > 0
    assert kl(teacher, written) < 0.9 * kl(teacher, student)


def test_the_curves_are_kept(tmp_path: Path) -> None:
    teacher, student = teacher_and_student()
    context = SandboxContext(root=tmp_path, base=teacher)
    result = llmasos_accelerate(student, tmp_path / "out", Options(**QUICK), context)
    assert [(display.done, display.total) for display in context.displays] == [(30, 30)]
    (curves,) = result.report["curves"].values()
    assert [point[0] for point in curves["training"]] == list(range(1, 31))
    assert [point[0] for point in curves["held out"]] == [0, 10, 20, 30]


def test_training_that_does_not_help_stops_early_and_keeps_the_student(tmp_path: Path) -> None:
    teacher, student = teacher_and_student()
    written, result = run(teacher, student, tmp_path, steps=500, learning_rate=5.0, warmup=0, evaluate_every=2, patience=3)
    assert result.report["steps"] == 6
    assert result.report["stopped_early"]
    assert all((written.tensor(name) == student.tensor(name)).all() for name in student.names())
    assert "nothing better" in result.report["notes"][0]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import torch
torch.set_num_threads(1)
import attrs
from llmasos_accel_distill import Options, llmasos_accelerate
from llmasos_hookspecs.testing import SandboxContext, read_folder

root, step, options = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])

class Killer:
    done = 0
    def advance(self, amount=1):
        self.done += amount
        if self.done >= step:
            os.kill(os.getpid(), signal.SIGKILL)

class Context(SandboxContext):
    @contextmanager
    def progress(self, label, total=None, unit=""):
        yield Killer()

teacher, student = (read_folder(root / name) for name in ("teacher", "student"))
llmasos_accelerate(student, root / "out", Options(**options), Context(root=root, base=teacher))
"""


class Interrupted(SandboxContext):
    """The user strikes Ctrl-C at a step."""

    @contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        steps = itertools.count(1)

        class Display:
            def advance(self, amount: float = 1) -> None:
                if next(steps) == 15:
                    raise KeyboardInterrupt

        yield Display()


def check_that_it_goes_on(teacher: TinyCheckpoint, student: TinyCheckpoint, root: Path, options: Mapping[str, Any]) -> None:
    """After it was cut off: no output appeared, and another start ends with the same bits as an unbroken run."""
    assert not (root / "out").exists()
    assert list((root / "cache" / "runs").glob("*/step-*"))
    again, result = run(teacher, student, root, **options)
    assert not list((root / "cache" / "runs").glob("*"))
    fresh = root / "fresh"
    fresh.mkdir()
    unbroken, expected = run(teacher, student, fresh, **options)
    assert result.report == expected.report
    assert all((again.tensor(name) == unbroken.tensor(name)).all() for name in student.names())


def test_interrupted_and_started_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    teacher, student = teacher_and_student("qwen2")
    options = {**QUICK, "steps": 18}
    with pytest.raises(KeyboardInterrupt):
        llmasos_accelerate(student, tmp_path / "out", Options(**options), Interrupted(root=tmp_path, base=teacher))
    check_that_it_goes_on(teacher, student, tmp_path, options)


@pytest.mark.long
@pytest.mark.parametrize("case", ["qwen2", "llama"])
def test_killed_and_started_again_ends_with_the_same_bits(tmp_path: Path, case: str) -> None:
    """SIGKILL in the middle, of the llama twice: no output appears, and the last start ends as an unbroken run does."""
    teacher, student = teacher_and_student(case)
    teacher, student = teacher.write(tmp_path / "teacher"), student.write(tmp_path / "student")
    options = {**QUICK, "batch": 2, "precision": "bfloat16" if case == "qwen2" else "float32"}
    for step in (17, 26) if case == "llama" else (15,):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(step), repr(options)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (tmp_path / "out").exists()
    check_that_it_goes_on(teacher, student, tmp_path, options)


def test_a_torn_save_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that cannot be read is as good as none."""
    teacher, student = teacher_and_student()
    options = {**QUICK, "steps": 12}
    unbroken, _ = run(teacher, student, tmp_path, **options)
    (tmp_path / "out").rename(tmp_path / "first")
    torn: list[Path] = []

    def tear(root: Path) -> RunFolder:
        folder = RunFolder(root)
        (root / "step-10").mkdir()
        (root / "step-10" / "progress.json").write_text('{"step": 10')
        torn.append(root)
        return folder

    monkeypatch.setattr(stage, "RunFolder", tear)
    result = llmasos_accelerate(student, tmp_path / "out", Options(**options), SandboxContext(root=tmp_path, base=teacher))
    again = read_folder(result.path)
    assert torn
    assert all((again.tensor(name) == unbroken.tensor(name)).all() for name in student.names())


def test_old_unfinished_runs_are_removed(tmp_path: Path) -> None:
    """Their saves are large: the two that were at work last stay, beside the one that is opened."""
    for age, name in enumerate(("newest", "newer", "old", "oldest")):
        (tmp_path / name / "step-10").mkdir(parents=True)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    RunFolder(tmp_path / "own")
    assert {folder.name for folder in tmp_path.iterdir()} == {"own", "newest", "newer"}
    RunFolder(tmp_path / "newer")
    assert {folder.name for folder in tmp_path.iterdir()} == {"own", "newest", "newer"}


def test_an_old_run_that_another_process_removes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        (tmp_path / name / "step-10").mkdir(parents=True)
    changed = run_state._changed

    def removed(folder: Path) -> float:
        shutil.rmtree(folder)
        return changed(folder)

    monkeypatch.setattr(run_state, "_changed", removed)
    RunFolder(tmp_path / "own")
    assert [folder.name for folder in tmp_path.iterdir()] == ["own"]


def test_a_student_without_a_teacher_is_told(tmp_path: Path) -> None:
    teacher, _ = teacher_and_student()
    for base in (None, teacher):
        with pytest.raises(AccelerationError, match="student has no teacher"):
            run(base, teacher, tmp_path)


def test_a_named_teacher_is_loaded(tmp_path: Path) -> None:
    teacher, student = teacher_and_student()
    teacher.write(tmp_path / "teacher")
    _, result = run(student, student, tmp_path, teacher=str(tmp_path / "teacher"), steps=12)
    assert result.report["held_out_after"] < result.report["held_out_before"]


def test_held_out_sequences_share_nothing_with_the_training_ones() -> None:
    """Windows that overlap, as they do where the text is short: those that reach into a held-out one are dropped."""
    text = np.random.default_rng(0).integers(0, 1000, 600).astype(np.int32)
    windows = np.stack([text[start : start + 100] for start in range(0, 501, 25)])
    sequences = Sequences.split(windows, 2)
    held = {tuple(window[start : start + 20]) for window in sequences.held_out for start in range(81)}
    assert 10 < len(sequences.training) < 19
    for window in sequences.training:
        assert not any(tuple(window[start : start + 20]) in held for start in range(81))


def test_text_too_short_to_hold_any_apart_is_refused() -> None:
    """Every window reaches into the one that is held out."""
    text = np.random.default_rng(0).integers(0, 1000, 120).astype(np.int32)
    with pytest.raises(AccelerationError, match=r"^The calibration text is too short: .* give a longer corpus\.$"):
        Sequences.split(np.stack([text[start : start + 100] for start in range(0, 20, 5)]), 1)


def test_every_epoch_sees_every_sequence_once_and_in_another_order() -> None:
    sequences = Sequences(np.arange(20, dtype=np.int32).reshape(10, 2), np.empty((1, 2), np.int32))
    epochs = [[int(sequences.batch(step, 1, 3)[0, 0]) for step in range(start, start + 10)] for start in (0, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(0, 20, 2))] * 2
    assert epochs[0] != epochs[1]


def test_layers_learn_from_those_before_the_next_kept_one() -> None:
    def depth(layers: int) -> Any:
        return type("Model", (), {"config": type("Config", (), {"num_layers": layers})})

    assert teaching_layers(depth(4), depth(6), [0, 1, 4, 5]) == [0, 3, 4, 5]
    assert teaching_layers(depth(3), depth(6), None) == [1, 3, 5]


def test_the_divergence_is_multiplied_by_the_square_of_the_temperature() -> None:
    """Its definition, in float64: so gradients at a high temperature are as large as at 1. It is not symmetric, and 0 for equals."""
    rng = np.random.default_rng(3)
    teacher, student = rng.standard_normal((2, 2, 5, 11)) * 3

    def logs(logits: np.ndarray) -> np.ndarray:
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def found(temperature: float) -> float:
        return float(divergence(torch.from_numpy(teacher), torch.from_numpy(student), temperature))

    for temperature in (0.5, 1.0, 2.0, 4.0):
        p, q = logs(teacher / temperature), logs(student / temperature)
        expected = (np.exp(p) * (p - q)).sum(axis=-1).mean() * temperature**2
        assert found(temperature) == pytest.approx(expected, rel=1e-4)
    assert found(1000.0) == pytest.approx(np.square((teacher - student) - (teacher - student).mean(-1, keepdims=True)).mean() / 2, rel=0.02)
    assert float(divergence(torch.from_numpy(teacher), torch.from_numpy(teacher), 2.0)) == 0


def test_the_state_error_is_a_share_of_the_teachers_energy() -> None:
    states = [torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    taught = [states[0], states[2], states[3]]
    assert float(state_error(states, taught, [1, 2])) == 0
    assert float(state_error(states, [states[0], 1.1 * states[2], states[3]], [1, 2])) == pytest.approx(0.005, rel=1e-3)


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [schedule(step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(later <= before for before, later in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("options", "state", "sentence"),
    [
        ({}, {"quantized": True}, "put distill before quant"),
        ({}, {"masked": True}, "put distill before the mask"),
        ({"held_out": 24, "windows": 24}, {}, "leaves none of the 24 windows"),
        ({"length": 1000}, {}, "longer than the model's context of 256"),
        ({}, {"changed": False}, "The student has no teacher"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], state: dict[str, bool], sentence: str) -> None:
    (problem,) = plan_distillation(tiny_checkpoint("llama").decoder, Options(**{"length": 64, **options}), state).problems
    assert sentence in problem


def test_a_named_teacher_is_judged_before_it_is_loaded() -> None:
    """It needs the student's vocabulary, and its width only where hidden states are taught."""
    student = tiny_checkpoint("llama").decoder
    for hidden, expected in ((None, 1), (0.0, 1), (0.5, 2)):
        plan = plan_distillation(student, Options(length=64, teacher="large", hidden=hidden), {"changed": False})
        assert not plan.problems
        judge = plan.opens["large"]
        assert not judge(student)
        problems = list(judge(attrs.evolve(student, vocab_size=300, hidden_size=2 * student.hidden_size)))
        assert len(problems) == expected
        assert f"a vocabulary of 300 tokens and the student one of {student.vocab_size};" in problems[0]
        assert "same hidden_size; set hidden = 0" in problems[-1] or expected == 1
    assert not plan_distillation(student, Options(length=64), {"changed": False}).opens
