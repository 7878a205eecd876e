"""Measures one checkpoint on one backend: size, quality and speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.evaluation.quality import Quality, measure_quality
from llmasos.evaluation.reference import DequantizedCheckpoint
from llmasos.evaluation.size import Size, measure_size
from llmasos.evaluation.speed import Speed, measure_speed
from llmasos.system.context import ProgressSink
from llmasos_hookspecs import Checkpoint, Engine

#: The protocol whose figures the documentation quotes.
WINDOWS: Final = 40
LENGTH: Final = 512


@attrs.frozen(kw_only=True)
class Backend:
    """The loader that measurements run on.

    Attributes:
        label: the loader with its distribution, version and options, for reports and cache keys.
        load: makes an engine of a checkpoint.
        load_reference: makes the reference engine from a float32 checkpoint, without loader options that round weights.
        context_length: tokens that a sequence may have on it; None: as many as the model's own context.
    """

    label: str
    load: Callable[[Checkpoint], Engine]
    load_reference: Callable[[Checkpoint], Engine]
    context_length: int | None = None


@attrs.frozen(kw_only=True)
class Measurement:
    """The figures of one checkpoint; ``backend`` is the label of what they were measured on, ``dtype`` what it computed from."""

    size: Size
    quality: Quality
    speed: Speed | None
    backend: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return attrs.asdict(self)


def measure(
    checkpoint: Checkpoint,
    windows: npt.NDArray[np.int32],
    backend: Backend,
    sink: ProgressSink,
    *,
    base: Checkpoint | None = None,
    label: str = "model",
    quality: Quality | None = None,
    speed: bool = True,
) -> Measurement:
    """Load a checkpoint and measure its size, its quality over ``windows`` [windows, length], and its speed.

    Args:
        base: the checkpoint whose predictions, computed in float32, are the reference.
        quality: from an earlier measurement; it is not measured again.
    """
    engine = backend.load(checkpoint)
    try:
        if quality is None:
            quality = _quality(engine, windows, backend, sink, base, label)
        return Measurement(
            size=measure_size(checkpoint, engine.info.weight_bytes),
            quality=quality,
            speed=measure_speed(engine, windows[0]) if speed else None,
            backend=backend.label,
            dtype=engine.info.dtype,
        )
    finally:
        engine.shutdown()


def _quality(
    engine: Engine, windows: npt.NDArray[np.int32], backend: Backend, sink: ProgressSink, base: Checkpoint | None, label: str
) -> Quality:
    reference = None if base is None else backend.load_reference(DequantizedCheckpoint(base))
    try:
        with sink.progress(f"evaluate {label}", len(windows), "windows") as progress:
            return measure_quality(engine, windows, reference=reference, progress=progress)
    finally:
        if reference is not None:
            reference.shutdown()
