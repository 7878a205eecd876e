"""The training loop against its formulas, and what the user reads of it: problems, progress, the report, and saves that fail."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from llmasos_accel_distill import Options, llmasos_accelerate
from llmasos_accel_distill.data import Sequences
from llmasos_accel_distill.loss import divergence, state_error, teaching_layers
from llmasos_accel_distill.plan import plan_distillation
from llmasos_accel_distill.stage import _kept, _run_key, _samples
from llmasos_accel_distill.state import Progress, RunFolder
from llmasos_accel_distill.training import Training, schedule
from llmasos_hookspecs import AccelerationError, StagePlan
from llmasos_hookspecs.testing import SandboxContext, TinyCheckpoint, tiny_checkpoint
from llmasos_torch_decoder import load_decoder, sample

TEACHER = tiny_checkpoint("llama")
DECODER = TEACHER.decoder
NO_TEACHER = (
    "The student has no teacher, because it is itself the model that the first stage started from; put a prune stage before distill, or "
    "name a teacher."
)


def noisy(checkpoint: TinyCheckpoint, seed: int = 5) -> TinyCheckpoint:
    rng = np.random.default_rng(seed)
    changed = {
        name: (tensor + 0.05 * rng.standard_normal(tensor.shape)).astype(np.float32)
        for name, tensor in checkpoint.tensors.items()
        if name.endswith("_proj.weight")
    }
    return attrs.evolve(checkpoint, tensors={**checkpoint.tensors, **changed})


def sequences() -> Sequences:
    tokens = np.random.default_rng(3).integers(0, 256, (7, 12)).astype(np.int32)
    return Sequences(tokens[:5], tokens[5:])


def trained(root: Path, options: Options, *, hidden: float, seed: int = 4) -> tuple[Training, Any]:
    student = load_decoder(noisy(TEACHER))
    teacher = load_decoder(TEACHER)
    training = Training(
        student,
        teacher,
        sequences(),
        options,
        RunFolder(root / "run"),
        taught_by=teaching_layers(student, teacher, None),
        hidden=hidden,
        seed=seed,
    )
    return training, student


@pytest.mark.parametrize(("hidden", "temperature"), [(0.0, 1.0), (0.3, 2.0)])
def test_the_steps_are_those_of_adam_with_clipped_gradients(tmp_path: Path, hidden: float, temperature: float) -> None:
    """Betas of 0.9 and 0.95, no decay, gradients of a norm of one at most, and the rate of the schedule; by its formulas."""
    options = Options(steps=5, batch=2, warmup=2, learning_rate=1e-3, evaluate_every=5, temperature=temperature, checkpoint_every=100)
    training, student = trained(tmp_path, options, hidden=hidden)
    advanced: list[float] = []
    training.run(advanced.append)
    assert advanced == [0, 1, 1, 1, 1, 1]

    teacher, plain = load_decoder(TEACHER), load_decoder(noisy(TEACHER))
    parameters = dict(plain.named_parameters())
    first, second = ({name: torch.zeros_like(each) for name, each in parameters.items()} for _ in range(2))
    losses, clipped = [], False
    for step in range(5):
        tokens = torch.from_numpy(sequences().batch(step, 2, 4).astype(np.int64))
        with torch.no_grad():
            wanted = teacher.hidden_states(tokens)
        states = plain.hidden_states(tokens)
        loss = divergence(teacher.head(wanted[-1]).detach(), plain.head(states[-1]), temperature)
        total = loss + hidden * state_error(wanted, states, [0, 1])
        gradients = dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))
        norm = math.sqrt(sum(float(each.double().square().sum()) for each in gradients.values()))
        clipped |= norm > 1
        rate = 1e-3 * schedule(step, 5, 2)
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = gradients[name] * min(1.0, 1.0 / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.95 * second[name] + 0.05 * gradient.square()
                moved = first[name] / (1 - 0.9 ** (step + 1))
                parameter -= rate * moved / ((second[name] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
        losses.append([step + 1, float(loss.detach())])
    assert clipped or hidden == 0
    np.testing.assert_allclose(training.progress.training, losses, rtol=1e-3)
    start = load_decoder(noisy(TEACHER)).state_dict()
    for name, parameter in student.named_parameters():
        moved = float((parameters[name].detach() - start[name]).abs().max())
        torch.testing.assert_close(parameter.data, parameters[name].data, atol=0.02 * moved + 1e-7, rtol=0)
    with torch.no_grad():
        held = [
            float(divergence(teacher(ids), plain(ids)))
            for ids in (torch.from_numpy(each[None].astype(np.int64)) for each in sequences().held_out)
        ]
    assert [point[0] for point in training.progress.held_out] == [0, 5]
    assert training.progress.held_out[-1][1] == pytest.approx(np.mean(held), rel=1e-3), (
        "At a temperature of one, whatever the training's is."
    )
    assert (training.progress.best, training.progress.best_step) == (training.progress.held_out[-1][1], 5)


@pytest.mark.parametrize(("interrupted", "precision"), [(1, "float32"), (2, "bfloat16"), (3, "float32")])
def test_a_run_goes_on_from_its_last_save(tmp_path: Path, interrupted: int, precision: Any) -> None:
    """Where it was interrupted before there was one, from the beginning; and ends as one that was not interrupted."""
    options = Options(steps=4, warmup=1, learning_rate=1e-3, evaluate_every=1, checkpoint_every=2, precision=precision)
    whole, expected = trained(tmp_path / "whole", options, hidden=0.1)
    whole.run(lambda _: None)
    done: list[float] = []

    def advance(steps: float) -> None:
        done.append(steps)
        if sum(done) == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", options, hidden=0.1)[0].run(advance)
    again, student = trained(tmp_path / "cut", options, hidden=0.1)
    told: list[float] = []
    again.run(told.append)
    assert told == ([2, 1, 1] if interrupted >= 2 else [0, 1, 1, 1, 1])
    assert again.progress == whole.progress
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), expected.parameters(), strict=True))


def test_a_model_that_computes_no_numbers_is_told_before_the_training(tmp_path: Path) -> None:
    training, student = trained(tmp_path, Options(steps=2), hidden=0.0)
    next(iter(student.parameters())).data.fill_(torch.inf)
    with pytest.raises(AccelerationError) as caught:
        training.run(lambda _: None)
    assert str(caught.value) == "What the teacher or the student predicts is NaN or infinite before any training; check both models."


def test_problems_of_a_plan() -> None:
    """All at once, and none of a plan that can be."""

    def problems(state: Mapping[str, bool], **options: Any) -> Sequence[str]:
        return plan_distillation(DECODER, Options(**{"length": 64, **options}), state).problems

    assert problems({"quantized": True, "masked": True, "changed": False}, windows=24, held_out=24, length=257) == (
        "Training needs float weights, and these are quantised; put distill before quant.",
        "Training would fill the zeros of the mask; put distill before the mask.",
        "held_out = 24 leaves none of the 24 windows to train on; ask for more windows.",
        "length = 257 is longer than the model's context of 256; shorten it.",
        NO_TEACHER,
    )
    fine = plan_distillation(DECODER, Options(length=256, windows=24, held_out=23), {"changed": True})
    assert fine == StagePlan()
    judge = plan_distillation(DECODER, Options(length=64, teacher="large", hidden=0.5), {}).opens["large"]
    assert list(judge(attrs.evolve(DECODER, vocab_size=300, hidden_size=32))) == [
        f"The teacher has a vocabulary of 300 tokens and the student one of {DECODER.vocab_size}; name a teacher with the same tokenizer.",
        "Hidden states can be taught only where student and teacher have the same hidden_size; set hidden = 0.",
    ]


def shallow(checkpoint: TinyCheckpoint, **manifest: Any) -> TinyCheckpoint:
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if ".layers.1." not in name}
    return attrs.evolve(checkpoint, config={**checkpoint.config, "num_hidden_layers": 1}, tensors=tensors)


def test_the_report_and_the_progress(tmp_path: Path) -> None:
    """Steps, both losses, the weight on hidden states where layers were dropped, sequences, and curves; samples are drawn in front."""
    options: dict[str, Any] = {
        "steps": 3,
        "windows": 10,
        "held_out": 2,
        "length": 20,
        "evaluate_every": 2,
        "batch": 2,
        "learning_rate": 1e-2,
    }
    context = SandboxContext(root=tmp_path, base=TEACHER)
    student = shallow(TEACHER)
    report = dict(llmasos_accelerate(student, tmp_path / "out", Options(source="both", samples=17, **options), context).report)
    assert [(each.label, each.done, each.total, each.unit) for each in context.displays] == [
        ("sample from the teacher", 17, 17, "sequences"),
        ("distil", 3, 3, "steps"),
    ]
    (curves,) = report.pop("curves").items()
    assert curves[0] == "Divergence from the teacher, nats a token"
    assert [point[0] for point in curves[1]["training"]] == [1, 2, 3]
    held = curves[1]["held out"]
    assert [point[0] for point in held] == [0, 2, 3]
    best = min(held, key=lambda point: point[1])
    expected = {
        "steps": 3,
        "stopped_early": False,
        "best_step": best[0],
        "held_out_before": held[0][1],
        "held_out_after": best[1],
        "hidden": 0.1,
        "sequences": 8 + 17,
    }
    if best[0] == 0:
        expected["notes"] = ["Training found nothing better than the student it was given, which was kept."]
    assert report == expected
    assert not list((tmp_path / "cache" / "runs").iterdir())
    same = tmp_path / "same"
    same.mkdir()
    found = llmasos_accelerate(noisy(TEACHER), same / "out", Options(**options), SandboxContext(root=same, base=TEACHER)).report
    assert (found["hidden"], found["sequences"]) == (0.0, 8), "No layer was dropped."
    alone = tmp_path / "alone"
    alone.mkdir()
    context = SandboxContext(root=alone, base=TEACHER)
    found = llmasos_accelerate(noisy(TEACHER), alone / "out", Options(source="samples", samples=17, hidden=0.5, **options), context).report
    assert (found["hidden"], found["sequences"]) == (0.5, 17), "The text is left out, and the weight is the one that was asked for."


def test_a_student_needs_another_teacher(tmp_path: Path) -> None:
    other = attrs.evolve(TEACHER, config={**TEACHER.config, "vocab_size": 300})
    for base, said in (
        (None, NO_TEACHER),
        (TEACHER, NO_TEACHER),
        (other, "The teacher has a vocabulary of 300 tokens and the student one of 288; name a teacher with the same tokenizer."),
    ):
        with pytest.raises(AccelerationError) as caught:
            llmasos_accelerate(TEACHER, tmp_path / "out", Options(), SandboxContext(root=tmp_path, base=base))
        assert str(caught.value) == said


def test_only_the_same_run_is_gone_on_with(tmp_path: Path) -> None:
    """Of the same student, teacher, options, seed and text."""
    windows = np.arange(6, dtype=np.int32).reshape(2, 3)
    given: tuple[Any, ...] = (noisy(TEACHER), TEACHER, Options(), 3, windows)
    others: list[tuple[int, Any]] = [(0, noisy(TEACHER, 6)), (1, noisy(TEACHER)), (2, Options(steps=7)), (3, 4), (4, windows + 1)]
    keys = [_run_key(*given), *(_run_key(*given[:place], other, *given[place + 1 :]) for place, other in others)]
    assert len(set(keys)) == 6
    assert _run_key(*given) == keys[0]
    assert {len(key) for key in keys} == {32}


def test_layers_that_an_earlier_stage_kept_are_known() -> None:
    def of(*stages: Any) -> Any:
        return _kept(attrs.evolve(TEACHER, manifest={"stages": list(stages)}))

    assert of({"report": {"kept": [9]}}, {"report": {"kept": [0, 2]}}) == [0, 2]
    assert of({"report": {"kept": [0, 2]}}, {"report": {}}) is None
    assert of({"report": {"kept": 3}}) is None
    assert of({}) is None
    assert of() is None
    assert _kept(TEACHER) is None


@pytest.mark.parametrize("length", [5, 8, 9, 30])
def test_samples_begin_with_the_training_text(tmp_path: Path, length: int) -> None:
    """Eight tokens of it, or all of a shorter one, from any place; then what the teacher draws, batch by batch, by the seed."""
    text = np.random.default_rng(0).integers(0, 256, (3, length)).astype(np.int32)
    options, teacher = Options(samples=20, length=24), load_decoder(TEACHER)
    found = _samples(teacher, text, options, SandboxContext(root=tmp_path, seed=7))
    assert (found.shape, found.dtype) == ((20, 24), np.int32)
    prompt = min(8, length)
    places = [
        next((row, at) for row in range(3) for at in range(length - prompt + 1) if (text[row, at : at + prompt] == each[:prompt]).all())
        for each in found
    ]
    assert {row for row, _ in places} == {0, 1, 2}
    starts = {at for _, at in places}
    assert starts == {0} if length <= 8 else len(starts) > 1 and max(starts) <= length - 8
    assert length != 9 or starts == {0, 1}, "Each place where eight tokens are left."
    second = torch.from_numpy(found[16:, :prompt].astype(np.int64))
    drawn = sample(teacher, second, 24, torch.Generator().manual_seed(7 * 1_000_003 + 1))
    assert (drawn.numpy() == found[16:]).all()


def test_a_save_is_found_again_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.load() is None
    for step in (3, 10, 9):
        folder.save(Progress(step=step, best=0.5, training=[[1, 2.0]]), {"a": torch.full((2,), float(step))})
        assert [each.name for each in folder.root.iterdir()] == [f"step-{step}"]
    progress, tensors = folder.load() or (None, {})
    assert progress == Progress(step=9, best=0.5, training=[[1, 2.0]])
    assert tensors["a"].tolist() == [9.0, 9.0]
    (folder.root / "step-100").mkdir()
    (folder.root / "step-100" / "progress.json").write_text(json.dumps({"step": "odd"}))
    (folder.root / "step-x").mkdir()
    assert folder.load() is not None
    folder.remove()
    assert not folder.root.exists()


def test_a_save_that_cannot_be_removed_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one counts; and so it is when the run is over."""
    remove = shutil.rmtree

    def stubborn(path: Path, ignore_errors: bool = False) -> None:
        if path.name in {"step-3", "run"}:
            if not ignore_errors:
                raise OSError("in use")
        else:
            remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr("llmasos_accel_distill.state.shutil.rmtree", stubborn)
    folder = RunFolder(tmp_path / "run")
    for step in (3, 4):
        folder.save(Progress(step=step), {"a": torch.zeros(1)})
    progress, _ = folder.load() or (None, {})
    assert progress == Progress(step=4)
    folder.remove()
    assert folder.root.exists()


def test_a_save_that_fails_says_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("llmasos_accel_distill.state.save_file", full)
    with pytest.raises(AccelerationError) as caught:
        folder.save(Progress(), {})
    assert str(caught.value) == f"Training could not be saved in {folder.root} (no space left); free some space and start it again."


def test_schedules_and_layers_at_their_borders() -> None:
    assert [schedule(step, 3, 0) for step in (0, 3)] == pytest.approx([1.0, 0.1])
    assert schedule(5, 5, 5) == pytest.approx(1.0), "All of it was warm-up."
    assert schedule(1, 10, 4) == 0.5
    assert schedule(7, 10, 4) == pytest.approx(0.55)
