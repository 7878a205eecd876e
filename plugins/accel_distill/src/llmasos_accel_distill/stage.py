"""The stage: trains a pruned checkpoint and writes the trained one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import torch

from llmasos_accel_distill.data import Sequences, Tokens
from llmasos_accel_distill.loss import teaching_layers
from llmasos_accel_distill.options import Options
from llmasos_accel_distill.plan import NO_TEACHER, teacher_problems
from llmasos_accel_distill.state import Progress, RunFolder
from llmasos_accel_distill.training import Training
from llmasos_hookspecs import AccelerationError, AccelerationResult, Checkpoint, Context
from llmasos_torch_decoder import Decoder, load_decoder, sample

#: Weight of the loss on hidden states where layers were dropped.
_HIDDEN: Final = 0.1

#: Tokens of training text that begin each sample of the teacher.
_PROMPT: Final = 8

#: Version of the training, part of the cache key; increase it when the same inputs no longer give the same student.
_VERSION: Final = 2


def distill_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Train ``checkpoint`` to predict what its teacher predicts, and write it in float32.

    Raises:
        AccelerationError: there is no teacher, it is the student itself, or the two do not share a vocabulary.
    """
    source = _teacher(checkpoint, options, context)
    windows = context.calibration(options.windows, options.length)
    folder = RunFolder(context.cache / "runs" / _run_key(checkpoint, source, options, context.seed, windows))
    student, teacher = load_decoder(checkpoint), load_decoder(source)
    sequences = Sequences.split(windows, options.held_out)
    if options.source != "text":
        drawn = _samples(teacher, sequences.training, options, context)
        sequences = attrs.evolve(sequences, training=drawn if options.source == "samples" else np.concatenate((sequences.training, drawn)))
    shallower = student.config.num_layers < teacher.config.num_layers
    same_width = student.config.hidden_size == teacher.config.hidden_size
    hidden = options.hidden if options.hidden is not None else (_HIDDEN if shallower and same_width else 0.0)
    training = Training(
        student,
        teacher,
        sequences,
        options,
        folder,
        taught_by=teaching_layers(student, teacher, _kept(checkpoint)),
        hidden=hidden,
        seed=context.seed,
    )
    with context.progress("distil", total=options.steps, unit="steps") as display:
        training.run(display.advance)
    trained = dict(student.named_parameters())
    with context.writer(checkpoint, output) as writer:
        for name in checkpoint.names():
            writer.add(name, trained[name].detach().numpy() if name in trained else checkpoint.tensor(name))
    folder.remove()
    return writer.result(**_report(training.progress, options, hidden, len(sequences.training)))


def _teacher(checkpoint: Checkpoint, options: Options, context: Context) -> Checkpoint:
    teacher = context.load_checkpoint(Path(options.teacher)) if options.teacher else context.base
    if teacher is None or teacher.digest == checkpoint.digest:
        raise AccelerationError(NO_TEACHER)
    if problems := teacher_problems(checkpoint.decoder, teacher.decoder, options.hidden):
        raise AccelerationError(" ".join(problems))
    return teacher


def _run_key(checkpoint: Checkpoint, teacher: Checkpoint, options: Options, seed: int, windows: Tokens) -> str:
    """The key of everything that determines the run, so that only an identical run resumes it."""
    parts = [_VERSION, checkpoint.digest, teacher.digest, attrs.asdict(options), seed, hashlib.sha256(windows.tobytes()).hexdigest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _samples(teacher: Decoder, training: Tokens, options: Options, context: Context, batch: int = 16) -> Tokens:
    """Text sampled from the teacher, int32 [samples, length], each prompted by a few tokens of the training text."""
    rng = np.random.default_rng((context.seed, 1))
    starts = rng.integers(0, training.shape[1] - _PROMPT + 1 if training.shape[1] > _PROMPT else 1, options.samples)
    rows = rng.integers(0, len(training), options.samples)
    prompts = np.stack([training[row, start : start + _PROMPT] for row, start in zip(rows, starts, strict=True)]).astype(np.int64)
    drawn = []
    with context.progress("sample from the teacher", total=options.samples, unit="sequences") as display:
        for index, part in enumerate(torch.split(torch.from_numpy(prompts), batch)):
            generator = torch.Generator().manual_seed(context.seed * 1_000_003 + index)
            drawn.append(sample(teacher, part, options.length, generator))
            display.advance(len(part))
    tokens: Tokens = torch.cat(drawn).numpy().astype(np.int32)
    return tokens


def _kept(checkpoint: Checkpoint) -> Sequence[int] | None:
    """The layers that the previous stage kept, if its report says that it dropped some."""
    stages = checkpoint.manifest.get("stages")
    kept = stages[-1].get("report", {}).get("kept") if stages else None
    return kept if isinstance(kept, list) else None


def _report(progress: Progress, options: Options, hidden: float, sequences: int) -> dict[str, Any]:
    first = progress.held_out[0][1]
    report = {
        "steps": progress.step,
        "stopped_early": progress.step < options.steps,
        "best_step": progress.best_step,
        "held_out_before": first,
        "held_out_after": progress.best,
        "hidden": hidden,
        "sequences": sequences,
        "curves": {"Divergence from the teacher, nats a token": {"training": progress.training, "held out": progress.held_out}},
    }
    if progress.best >= first:
        report["notes"] = ["Training found nothing better than the student it was given, which was kept."]
    return report
