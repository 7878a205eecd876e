"""The losses: KL divergence from the teacher's predictions, and the error of hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from llmasos_torch_decoder import Decoder


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean KL divergence, teacher to student, in nats a token (Hinton et al., 2015).

    Logits are [..., vocab]; at a temperature other than 1 the result is multiplied by its square, which keeps gradients
    comparable.
    """
    expected = functional.log_softmax(teacher.float() / temperature, dim=-1)
    found = functional.log_softmax(student.float() / temperature, dim=-1)
    return (expected.exp() * (expected - found)).sum(dim=-1).mean() * temperature**2


def state_error(teacher: Sequence[Tensor], student: Sequence[Tensor], taught_by: Sequence[int]) -> Tensor:
    """Squared error of the student's hidden states relative to the energy of the teacher's; the mean over layers.

    The output of student layer ``i`` is compared with that of teacher layer ``taught_by[i]``; both sequences start with the embeddings.
    """
    errors = []
    for layer, source in enumerate(taught_by):
        wanted = teacher[source + 1].float()
        errors.append((student[layer + 1].float() - wanted).square().sum(dim=-1) / wanted.square().sum(dim=-1).clamp(min=1e-6))
    return torch.stack(errors).mean()


def teaching_layers(student: Decoder, teacher: Decoder, kept: Sequence[int] | None) -> list[int]:
    """For each student layer the teacher layer that it learns from.

    ``kept`` are the teacher's layers that the student consists of, if known: each learns the output of the last dropped layer after it,
    which is the input that the next kept layer was trained on. Otherwise layers are matched at even spacing.
    """
    count, depth = student.config.num_layers, teacher.config.num_layers
    if kept is not None and len(kept) == count:
        return [following - 1 for following in (*kept[1:], depth)]
    return [round((layer + 1) * depth / count) - 1 for layer in range(count)]
