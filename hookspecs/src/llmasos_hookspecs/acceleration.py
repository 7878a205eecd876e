"""The plan and the result of an accelerator stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs.decoder import DecoderConfig


@attrs.frozen(kw_only=True)
class StagePlan:
    """What a stage would do to a decoder, determined from its description without reading a weight.

    ``Component.plan`` is called as ``plan(decoder, options, state)``; ``state`` is what the stages before it leave, with the
    keys ``quantized``, ``masked`` and ``changed`` (bool); the last is whether any stage of this run comes before.

    Attributes:
        problems: reasons why the stage cannot run, one sentence each; empty where it can.
        decoder: the description after the stage; None where the stage does not change it.
        leaves: keys of ``state`` that the stage sets.
        stage: as ``Component.stage``, for an accelerator whose stage depends on its options; None: as the component says.
        opens: folder or file of each further model that the stage reads -> what is wrong with the decoder found there, one sentence each.
            Core opens them all when it plans, and looks for NaN in them before the first stage runs.
        calibration: whether the stage, with these options, will call ``context.calibration``; None: as ``Component.calibration`` says.
    """

    problems: tuple[str, ...] = ()
    decoder: DecoderConfig | None = None
    leaves: Mapping[str, Any] = attrs.field(factory=dict)
    stage: str | None = None
    calibration: bool | None = None
    opens: Mapping[str, Callable[[DecoderConfig], Iterable[str]]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AccelerationResult:
    """What one accelerator stage wrote.

    Attributes:
        path: folder of the new checkpoint.
        touched: names of tensors that differ from the input's, are new, or are gone.
        skipped: name -> reason, for tensors that the stage could have changed and did not.
        report: plain data for the report (losses, layers dropped). ``notes`` are sentences that readers of the figures must know, and
            ``curves`` line charts: title -> name of a line -> points (x, y).
    """

    path: Path
    touched: tuple[str, ...] = ()
    skipped: Mapping[str, str] = attrs.field(factory=dict)
    report: Mapping[str, Any] = attrs.field(factory=dict)
