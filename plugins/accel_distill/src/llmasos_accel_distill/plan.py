"""Plans distillation and reports its problems before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from llmasos_accel_distill.options import Options
from llmasos_hookspecs import DecoderConfig, StagePlan

NO_TEACHER: Final = (
    "The student has no teacher, because it is itself the model that the first stage started from; "
    "put a prune stage before distill, or name a teacher."
)


def plan_distillation(decoder: DecoderConfig, options: Options, state: Mapping[str, Any]) -> StagePlan:
    """All problems at once; the decoder is not changed."""
    problems = []
    if state.get("quantized"):
        problems.append("Training needs float weights, and these are quantised; put distill before quant.")
    if state.get("masked"):
        problems.append("Training would fill the zeros of the mask; put distill before the mask.")
    if options.held_out >= options.windows:
        problems.append(f"held_out = {options.held_out} leaves none of the {options.windows} windows to train on; ask for more windows.")
    if options.length > decoder.context_length:
        problems.append(f"length = {options.length} is longer than the model's context of {decoder.context_length}; shorten it.")
    if not options.teacher and state.get("changed") is False:
        problems.append(NO_TEACHER)
    return StagePlan(problems=tuple(problems), opens={options.teacher: partial(_judge, decoder, options)} if options.teacher else {})


def teacher_problems(student: DecoderConfig, teacher: DecoderConfig, hidden: float | None) -> list[str]:
    """Why ``student`` cannot learn from ``teacher``. ``hidden`` is the option for the weight of the loss on hidden states."""
    problems = []
    if teacher.vocab_size != student.vocab_size:
        problems.append(
            f"The teacher has a vocabulary of {teacher.vocab_size} tokens and the student one of {student.vocab_size}; "
            "name a teacher with the same tokenizer."
        )
    if hidden and teacher.hidden_size != student.hidden_size:
        problems.append("Hidden states can be taught only where student and teacher have the same hidden_size; set hidden = 0.")
    return problems


def _judge(student: DecoderConfig, options: Options, teacher: DecoderConfig) -> list[str]:
    return teacher_problems(student, teacher, options.hidden)
