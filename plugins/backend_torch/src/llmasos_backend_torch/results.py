"""What a step returns of its packed logits: arrays on the host, or tokens that the device sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from llmasos_backend_torch.drawing import Rows, draw_tokens
from llmasos_backend_torch.plan import StepPlan
from llmasos_hookspecs import Draw


def step_results(logits: Tensor, plan: StepPlan, draws: Sequence[Draw | None]) -> list[npt.NDArray[Any]]:
    """The result of each row of a step from the logits [len(plan.wanted), vocab]; ``draws``: of the rows. Of a row with a draw only the
    token is copied from the device."""
    if all(draw is None for draw in draws):
        host = logits.float().cpu().numpy()
        return [host[begin : begin + count] for begin, count in plan.results]
    at = {begin: draw for draw, (begin, _) in zip(draws, plan.results, strict=True) if draw is not None}
    count, drawn = logits.shape[0], sorted(at)
    others = [place for place in range(count) if place not in at]
    tokens = draw_tokens(Rows(drawn, count, logits.device).of(logits), [at[place] for place in drawn]).cpu().numpy()
    rest = np.empty((0, logits.shape[-1]), np.float32)
    if others:
        rest = Rows(others, count, logits.device).of(logits).float().cpu().numpy()
    token_at, rest_at = ({place: index for index, place in enumerate(places)} for places in (drawn, others))
    results = []
    for draw, (begin, size) in zip(draws, plan.results, strict=True):
        found, first = (rest, rest_at.get(begin, 0)) if draw is None else (tokens, token_at[begin])
        results.append(found[first : first + size])
    return results
