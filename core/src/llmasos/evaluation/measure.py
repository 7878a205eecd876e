"""Measures one model: size, quality and speed."""

from __future__ import annotations

from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.evaluation.model_under_test import ModelUnderTest
from llmasos.evaluation.quality import Quality, measure_quality
from llmasos.evaluation.size import Size, measure_size
from llmasos.evaluation.speed import Speed, measure_speed

#: The protocol whose figures the documentation quotes.
WINDOWS: Final = 40
LENGTH: Final = 512


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


def measure(model: ModelUnderTest, windows: npt.NDArray[np.int32], *, quality: Quality | None = None, speed: bool = True) -> Measurement:
    """The size of a model, its speed, and its quality over ``windows`` [windows, length] against the one it is compared with, in float32.

    ``quality``: from an earlier measurement; it is not measured again, and no reference is loaded.
    """
    engine = model.engine
    # Before the reference is loaded, which would have threads and memory of its own.
    timed = measure_speed(engine, windows[0]) if speed else None
    return Measurement(
        size=measure_size(model.checkpoint, engine.info.weight_bytes),
        quality=quality or _quality(model, windows),
        speed=timed,
        backend=model.backend.label,
        dtype=engine.info.dtype,
    )


def _quality(model: ModelUnderTest, windows: npt.NDArray[np.int32]) -> Quality:
    with model.sink.progress(f"evaluate {model.label}", len(windows), "windows") as progress:
        return measure_quality(model.engine, windows, reference=model.reference, progress=progress)
