"""Images as Idefics3 and SmolVLM read them: tiles, each among tokens that say which it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Checkpoint, CheckpointError, Media, RequestError, Tokenizer
from llmasos_image_input.reading import IMAGE
from llmasos_image_input.tiles import Layout, TileSettings

#: In the ids of an image, a position that the vision tower's output takes.
EMBEDDED: Final = -1

_AROUND: Final = "<fake_token_around_image>"
_WHOLE: Final = "<global-img>"


@attrs.frozen
class ImageReader:
    """Prepares images for a model, and says which tokens stand around them.

    Attributes:
        settings: how images are cut.
        per_tile: positions that a tile takes.
        tokenizer: gives the tokens between tiles.
    """

    settings: TileSettings
    per_tile: int
    tokenizer: Tokenizer
    _ids: Any = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_ids", lru_cache(256)(self._make_ids))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ImageReader:
        """Raises ``CheckpointError`` where the configs of model and images do not fit together."""
        settings, vision = TileSettings.of(_settings(checkpoint)), checkpoint.config.get("vision_config")
        sizes = vision if isinstance(vision, Mapping) else {}
        patch, scale = _whole(checkpoint, sizes, "patch_size", 32), _whole(checkpoint, checkpoint.config, "scale_factor", 2)
        size = _whole(checkpoint, sizes, "image_size", 224)
        if size != settings.tile or size % (patch * scale):
            raise CheckpointError(
                f"{checkpoint.path} has vision_config.image_size = {size}, tiles of {settings.tile} pixels, patch_size = {patch} and "
                f"scale_factor = {scale}, which do not fit together; get the model again."
            )
        return cls(settings, (size // patch // scale) ** 2, checkpoint.tokenizer())

    @property
    def preprocessing(self) -> str:
        """``EngineInfo.preprocessing``."""
        return f"{self.settings} in {self.per_tile}"

    def check(self, media: Media) -> Layout:
        """How an image is cut. Raises ``RequestError`` where media are no image."""
        data = media.data
        if media.kind != IMAGE:
            raise RequestError(f"The model reads images, and it was given media of the kind {media.kind!r}; leave that out.")
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise RequestError(f"The image is {data.dtype} of shape {data.shape}, and it must be uint8 [height, width, 3].")
        return self.settings.layout(*data.shape[:2])

    def ids(self, media: Media) -> tuple[int, ...]:
        """The token ids of an image's positions; ``EMBEDDED`` where the vision tower's output stands, tile by tile."""
        layout = self.check(media)
        found: tuple[int, ...] = self._ids(layout.rows, layout.columns)
        return found

    def tiles(self, media: Media) -> npt.NDArray[np.float32]:
        """float32 [tiles, 3, edge, edge]."""
        return self.settings.tiles(media.data)

    def _make_ids(self, rows: int, columns: int) -> tuple[int, ...]:
        found: list[int] = []
        before = ""
        for row in range(rows):
            for column in range(columns):
                found += self._text(f"{before}{_AROUND}<row_{row + 1}_col_{column + 1}>") + [EMBEDDED] * self.per_tile
                before = ""
            before = "\n"
        before = "\n\n" if rows else ""
        return (*found, *self._text(f"{before}{_AROUND}{_WHOLE}"), *[EMBEDDED] * self.per_tile, *self._text(_AROUND))

    def _text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, special=False)


def _settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What the checkpoint's files say of images, in the file of processors since transformers 5 or in the older one."""
    files = checkpoint.text_files()
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        try:
            found = json.loads(files[name]) if name in files else None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} of {checkpoint.path} is no JSON; get the model again.") from error
        if key is not None and isinstance(found, dict):
            found = found.get(key)
        if isinstance(found, dict):
            return found
    raise CheckpointError(f"{checkpoint.path} has no preprocessor_config.json, which says how images are prepared; get the model again.")


def _whole(checkpoint: Checkpoint, config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json of {checkpoint.path} has {name} = {str(value)[:40]!r}, and it must be a whole number above 0.")
    return value
