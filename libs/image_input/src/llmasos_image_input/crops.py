"""Images of one size, as CLIP reads them for LLaVA, and SigLIP for Gemma 3: scaled, and cut to what is in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_image_input.settings import Normalization, check_ratio, resampling, switch, wrong

#: The longest edge that an image is scaled to.
_LONGEST_EDGE: Final = 4096
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_HALF: Final = (0.5, 0.5, 0.5)
_BICUBIC: Final = 3
_BILINEAR: Final = 2


@attrs.frozen(kw_only=True)
class CropSettings:
    """What ``preprocessor_config.json`` says of ``CLIPImageProcessor`` and ``Gemma3ImageProcessor``.

    Attributes:
        height, width: of every image in the end.
        shortest_edge: what the shorter edge is scaled to before the middle is cut out; None: both edges are scaled to the end's.
        resample: Pillow's number of the filter.
        normalization: what becomes of the pixels.
    """

    height: int
    width: int
    shortest_edge: int | None
    resample: int
    normalization: Normalization

    @classmethod
    def of_clip(cls, config: Mapping[str, Any]) -> CropSettings:
        """Raises ``CheckpointError`` where a value is none that such a processor has."""
        if not switch(config, "do_resize"):
            raise wrong("do_resize", False, "true, since the model takes images of one size")
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        edges = {"shortest_edge": size} if isinstance(size, int) else size
        if isinstance(edges, Mapping) and edges.get("shortest_edge") is not None:
            shortest = _edge("size", edges.get("shortest_edge"))
            if not switch(config, "do_center_crop"):
                raise wrong("do_center_crop", False, "true, since the model takes images of one size")
            height, width = _both("crop_size", crop)
            if max(height, width) > shortest:
                raise wrong("crop_size", crop, "no more than the shorter edge that images are scaled to")
        else:
            height, width = _both("size", size)
            shortest = None
            if switch(config, "do_center_crop") and "crop_size" in config and _both("crop_size", crop) != (height, width):
                raise wrong("crop_size", crop, "the size that images are scaled to")
        return cls(
            height=height,
            width=width,
            shortest_edge=shortest,
            resample=resampling(config, _BICUBIC),
            normalization=Normalization.of(config, CLIP_MEAN, CLIP_STD),
        )

    @classmethod
    def of_gemma3(cls, config: Mapping[str, Any]) -> CropSettings:
        """Raises ``CheckpointError`` where a value is none that such a processor has, or images would be cut to several."""
        if config.get("do_pan_and_scan"):
            raise wrong("do_pan_and_scan", config["do_pan_and_scan"], "false, since every image is read as one")
        if not switch(config, "do_resize"):
            raise wrong("do_resize", False, "true, since the model takes images of one size")
        height, width = _both("size", config.get("size", 224))
        normalization = Normalization.of(config, _HALF, _HALF)
        return cls(height=height, width=width, shortest_edge=None, resample=resampling(config, _BILINEAR), normalization=normalization)

    def pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """An image uint8 [height, width, 3] as float32 [3, height, width], of the size of these settings.

        Raises ``RequestError`` for an image that is far longer than wide."""
        from PIL import Image

        check_ratio(*pixels.shape[:2])
        image = Image.fromarray(pixels)
        if self.shortest_edge is None:
            return self.normalization.normalized(np.asarray(image.resize((self.width, self.height), resample=self.resample)))
        shorter, longer = sorted(image.size)
        other = int(self.shortest_edge * longer / shorter)
        size = (self.shortest_edge, other) if image.width <= image.height else (other, self.shortest_edge)
        scaled = np.asarray(image.resize(size, resample=self.resample))
        top, left = (scaled.shape[0] - self.height) // 2, (scaled.shape[1] - self.width) // 2
        return self.normalization.normalized(scaled[top : top + self.height, left : left + self.width])


def _both(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return _edge(name, value.get("height")), _edge(name, value.get("width"))
    return (_edge(name, value),) * 2


def _edge(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LONGEST_EDGE:
        raise wrong(name, value, 'such as {"height": 336, "width": 336}')
    return value
