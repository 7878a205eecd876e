"""Notes of a report: what a reader must know of a stage."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.acceleration.report import StageReport


def stage_notes(stage: StageReport) -> Iterator[str]:
    """The accelerator's own notes, and the tensors that it skipped."""
    notes = stage.report.get("notes", ())
    yield from (f"{stage.name}: {note}" for note in ([notes] if isinstance(notes, str) else notes))
    if stage.skipped:
        name, reason = next(iter(stage.skipped.items()))
        yield f"{stage.name}: skipped {len(stage.skipped)} tensors, such as {name}: {reason}"
