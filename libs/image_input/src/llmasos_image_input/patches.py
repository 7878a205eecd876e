"""Images in patches, as many as their size takes, as Qwen2-VL, Qwen2.5-VL and Qwen3-VL read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_image_input.crops import CLIP_MEAN, CLIP_STD
from llmasos_image_input.settings import Normalization, check_ratio, resampling, switch, wrong

_BICUBIC: Final = 3
#: The most pixels that an image is ever scaled to, whatever the settings say.
_MOST_PIXELS: Final = 50_000_000


@attrs.frozen(kw_only=True)
class PatchSettings:
    """What ``preprocessor_config.json`` says of ``Qwen2VLImageProcessor``.

    Attributes:
        patch: edge of a patch in pixels.
        merge: edge of a group of patches, which take one position, in patches.
        temporal: images that a patch spans in time; the same image fills all.
        least, most: pixels of an image once it is scaled.
        resample: Pillow's number of the filter.
        normalization: what becomes of the pixels.
    """

    patch: int
    merge: int
    temporal: int
    least: int
    most: int
    resample: int
    normalization: Normalization

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> PatchSettings:
        """Raises ``CheckpointError`` where a value is none that such a processor has."""
        if not switch(config, "do_resize"):
            raise wrong("do_resize", False, "true, since images are scaled to whole patches")
        size = config.get("size")
        sizes = size if isinstance(size, Mapping) else {}
        least = config.get("min_pixels") or sizes.get("shortest_edge") or sizes.get("min_pixels") or 56 * 56
        most = config.get("max_pixels") or sizes.get("longest_edge") or sizes.get("max_pixels") or 28 * 28 * 1280
        found = cls(
            patch=_count(config, "patch_size", 14),
            merge=_count(config, "merge_size", 2),
            temporal=_count(config, "temporal_patch_size", 2),
            least=_pixels("min_pixels", least),
            most=_pixels("max_pixels", most),
            resample=resampling(config, _BICUBIC),
            normalization=Normalization.of(config, CLIP_MEAN, CLIP_STD),
        )
        if not found.factor**2 <= found.most or found.least > found.most:
            raise wrong("max_pixels", most, "at least min_pixels, and the pixels of one group of patches")
        return found

    @property
    def factor(self) -> int:
        """Edge of a group of patches in pixels."""
        return self.patch * self.merge

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the groups of patches that an image of this size becomes.

        Raises ``RequestError`` for an image that is far longer than wide."""
        check_ratio(height, width)
        factor = self.factor
        rows, columns = round(height / factor), round(width / factor)
        if rows * columns * factor * factor > self.most:
            beta = math.sqrt(height * width / self.most)
            rows, columns = max(1, math.floor(height / beta / factor)), max(1, math.floor(width / beta / factor))
        elif rows * columns * factor * factor < self.least:
            beta = math.sqrt(self.least / (height * width))
            rows, columns = math.ceil(height * beta / factor), math.ceil(width * beta / factor)
        return max(rows, 1), max(columns, 1)

    def patches(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The patches of an image uint8 [height, width, 3], group by group: float32 [patches, 3 * temporal * patch * patch]."""
        from PIL import Image

        rows, columns = self.grid(*pixels.shape[:2])
        size = (columns * self.factor, rows * self.factor)
        image = self.normalization.normalized(np.asarray(Image.fromarray(pixels).resize(size, resample=self.resample)))
        found = image.reshape(3, rows, self.merge, self.patch, columns, self.merge, self.patch).transpose(1, 4, 2, 5, 0, 3, 6)
        found = np.broadcast_to(found[:, :, :, :, :, None], (*found.shape[:5], self.temporal, *found.shape[5:]))
        return np.ascontiguousarray(found.reshape(rows * columns * self.merge**2, -1))


def _count(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise wrong(name, value, "a whole number from 1 to 64")
    return value


def _pixels(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST_PIXELS:
        raise wrong(name, value, f"a whole number of pixels from 1 to {_MOST_PIXELS}")
    return value
