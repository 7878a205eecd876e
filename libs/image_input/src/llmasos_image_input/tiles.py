"""Images in tiles, as Idefics3 and SmolVLM read them: an image is enlarged to whole tiles, cut, and shown once more as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_image_input.settings import Normalization, resampling, switch, wrong

if TYPE_CHECKING:
    from PIL import Image

#: The longest edge that an image is ever enlarged to, whatever the settings say.
_LONGEST_EDGE: Final = 4096
_LANCZOS: Final = 1


@attrs.frozen
class Layout:
    """How an image is cut.

    Attributes:
        rows, columns: of tiles; 0 where the image is one tile, not cut.
        height, width: what it is enlarged or reduced to before it is cut.
    """

    rows: int
    columns: int
    height: int
    width: int

    @property
    def count(self) -> int:
        """Tiles: those that it is cut to, and one with the whole image."""
        return self.rows * self.columns + 1


@attrs.frozen(kw_only=True)
class TileSettings:
    """What ``preprocessor_config.json`` says of ``Idefics3ImageProcessor`` and ``SmolVLMImageProcessor``.

    Attributes:
        tile: edge of a tile in pixels.
        longest_edge: what the longer edge of an image is scaled to; None: images keep their size.
        split: images are cut to tiles; else each is one tile.
        resample: Pillow's number of the filter.
        normalization: what becomes of the pixels of a tile.
    """

    tile: int
    longest_edge: int | None
    split: bool = True
    resample: int = _LANCZOS
    normalization: Normalization = attrs.field(factory=Normalization)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TileSettings:
        """Raises ``CheckpointError`` where a value is none that such a processor has."""
        resize = switch(config, "do_resize")
        return cls(
            tile=_edge(config, "max_image_size", 364),
            longest_edge=_edge(config, "size", 4 * 364) if resize else None,
            split=switch(config, "do_image_splitting"),
            resample=resampling(config, _LANCZOS),
            normalization=Normalization.of(config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        )

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size is cut."""
        if not self.split:
            return Layout(0, 0, self.tile, self.tile)
        height, width = self._scaled(height, width)
        ratio = width / height
        if width >= height:
            width = self._whole(width)
            height = self._whole(int(width / ratio))
        else:
            height = self._whole(height)
            width = self._whole(int(height * ratio))
        rows, columns = height // self.tile, width // self.tile
        return Layout(rows, columns, height, width) if rows * columns > 1 else Layout(0, 0, height, width)

    def tiles(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The tiles of an image uint8 [height, width, 3], float32 [count, 3, tile, tile]: row by row, and the whole image last."""
        from PIL import Image

        layout = self.layout(*pixels.shape[:2])
        image = Image.fromarray(pixels)
        if self.longest_edge is not None:
            height, width = self._scaled(*pixels.shape[:2])
            image = self._resized(image, height, width)
        image = self._resized(image, layout.height, layout.width)
        found = [
            image.crop((left, top, left + self.tile, top + self.tile))
            for top in range(0, layout.rows * self.tile, self.tile)
            for left in range(0, layout.columns * self.tile, self.tile)
        ]
        found.append(self._resized(image, self.tile, self.tile) if found else image)
        return self.normalization.normalized(np.stack([np.asarray(each) for each in found]))

    def _resized(self, image: Image.Image, height: int, width: int) -> Image.Image:
        return image.resize((width, height), resample=self.resample)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Height and width where the longer edge has the length of the settings; the other is even, and one pixel at least."""
        if self.longest_edge is None:
            return height, width
        ratio, longest = width / height, self.longest_edge
        if width >= height:
            height, width = _even(int(longest / ratio)), longest
            if width > _LONGEST_EDGE:
                height, width = int(_LONGEST_EDGE / (width / height)), _LONGEST_EDGE
        else:
            height, width = longest, _even(int(longest * ratio))
            if height > _LONGEST_EDGE:
                height, width = _LONGEST_EDGE, int(_LONGEST_EDGE * (width / height))
        return max(height, 1), max(width, 1)

    def _whole(self, edge: int) -> int:
        return max(math.ceil(edge / self.tile), 1) * self.tile


def _even(edge: int) -> int:
    return max(edge + edge % 2, 1)


def _edge(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name)
    found = default if value is None else value.get("longest_edge") if isinstance(value, Mapping) else None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= _LONGEST_EDGE * 4:
        raise wrong(name, value, 'such as {"longest_edge": 364}')
    return found
