"""Notes of a report: facts that a reader needs to interpret the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from llmasos.acceleration.report import StageReport
from llmasos.evaluation import Measurement
from llmasos_hookspecs import Checkpoint, QuantizedTensor

_OWN_GRID: Final = (
    "The base comes from a file of {bits}-bit blocks (groups of {group}{offset}). A grid of just that form would hold it without "
    "any loss, by construction; that is no method's merit, and every other grid of as few bits rounds weights that were rounded before."
)


def base_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """How the base's own quantisation affects the figures."""
    for name in checkpoint.names():
        if not name.endswith("_proj.weight"):
            continue
        tensor = checkpoint.tensor(name)
        if isinstance(tensor, QuantizedTensor):
            offset = " with a float minimum" if tensor.minimums is not None else ""
            yield _OWN_GRID.format(bits=tensor.bits, group=tensor.group, offset=offset)
        return


def reference_notes(base: Measurement | None) -> Iterator[str]:
    """A note where the backend could not compute the reference in float32."""
    reference = base.quality.reference if base is not None else None
    if reference not in (None, "float32"):
        yield f"The base that the divergences refer to was computed in {reference}, so they leave out what that rounds."


def length_notes(base: Measurement | None, asked: int) -> Iterator[str]:
    """A note where the windows are shorter than requested."""
    if base is not None and base.quality.window < asked:
        yield f"The model's context has {base.quality.window} tokens, and so have the evaluation windows; {asked} were asked for."


def stage_notes(stage: StageReport, before: Measurement | None, base: Measurement | None) -> Iterator[str]:
    """The accelerator's own notes, the tensors it skipped, and figures derived from the measurement.

    ``before``: the measurement of the stage's input.
    """
    notes = stage.report.get("notes", ())
    yield from (f"{stage.name}: {note}" for note in ([notes] if isinstance(notes, str) else notes))
    if stage.skipped:
        name, reason = next(iter(stage.skipped.items()))
        yield f"{stage.name}: skipped {len(stage.skipped)} tensors, such as {name}: {reason}"
    quality = stage.measurement.quality if stage.measurement else None
    if quality is not None and quality.mean_kl is not None and quality.mean_kl > 0.1:
        yield f"{stage.name}: the predictions now diverge from the base's by {quality.mean_kl:.2f} nats a token, which readers will notice."
    if quality is not None and before is not None and base is not None:
        lost = math.log(before.quality.perplexity / base.quality.perplexity)
        recovered = math.log(before.quality.perplexity / quality.perplexity)
        if 0.01 < lost < math.inf and recovered > 0.01:
            yield f"{stage.name}: recovered {recovered / lost:.0%} of the log-perplexity that was lost before it."
