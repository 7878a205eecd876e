"""Values of ``preprocessor_config.json`` that processors of several families have; ``CheckpointError`` where one is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CheckpointError, RequestError

#: One edge of an image is at most so many times the other: what has to be scaled grows with that, and no family has seen longer ones.
_LONGEST: Final = 200


@attrs.frozen(kw_only=True)
class Normalization:
    """What becomes of pixels once an image has its size.

    Attributes:
        scale: what they are multiplied with.
        mean, std: of each channel, after that.
    """

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, config: Mapping[str, Any], mean: tuple[float, float, float], std: tuple[float, float, float]) -> Self:
        """``mean`` and ``std``: those of the family, where the config has none."""
        rescale, normalize = switch(config, "do_rescale"), switch(config, "do_normalize")
        return cls(
            scale=number(config, "rescale_factor", 1 / 255) if rescale else 1.0,
            mean=channels(config, "image_mean", mean) if normalize else (0.0, 0.0, 0.0),
            std=channels(config, "image_std", std) if normalize else (1.0, 1.0, 1.0),
        )

    def normalized(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Pixels [..., height, width, 3] as float32 [..., 3, height, width]."""
        scaled = pixels.astype(np.float32) * np.float32(self.scale)
        found = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(found, -1, -3), np.float32)


def check_ratio(height: int, width: int) -> None:
    """Raise ``RequestError`` for an image that is far longer than wide."""
    if max(height, width) > _LONGEST * min(height, width):
        raise RequestError(f"The image is {width} x {height}, and one edge may be {_LONGEST} times the other at most; cut it.")


def switch(config: Mapping[str, Any], name: str) -> bool:
    """A value that is true unless the config says false."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value is not False


def resampling(config: Mapping[str, Any], default: int) -> int:
    """Pillow's number of a filter."""
    value = config.get("resample")
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 5:
        raise wrong("resample", value, "the number of a filter of Pillow, 0 to 5")
    return value


def number(config: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise wrong(name, value, "a number")
    return float(value)


def channels(config: Mapping[str, Any], name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """A number for each of red, green and blue."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise wrong(name, value, "three numbers")
    red, green, blue = (number({name: each}, name, 0.0) for each in value)
    if name == "image_std" and not red * green * blue:
        raise wrong(name, value, "three numbers other than 0")
    return red, green, blue


def wrong(name: str, value: Any, wanted: str) -> CheckpointError:
    """The error for a value that is none of those wanted."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return CheckpointError(f"preprocessor_config.json has {name} = {shown}, and it must be {wanted}; get the model again.")
