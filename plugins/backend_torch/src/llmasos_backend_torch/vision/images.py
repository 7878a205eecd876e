"""Images as Idefics3 and SmolVLM read them: tiles, each among tokens that say which it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_hookspecs import Checkpoint, CheckpointError, Media, RequestError, Tokenizer
from llmasos_image_input.reading import IMAGE
from llmasos_image_input.tiles import Layout, TileSettings

#: In the ids of an image, a position that the vision tower's output takes.
EMBEDDED: Final = -1

#: Tiles that pass through the vision tower at once, so that a large image takes little more memory than a small one.
_TILES: Final = 4
_AROUND: Final = "<fake_token_around_image>"
_WHOLE: Final = "<global-img>"


class Images(Protocol):
    """How a family reads images.

    Attributes:
        preprocessing: of ``EngineInfo``.
    """

    @property
    def preprocessing(self) -> str: ...

    def ids(self, media: Media) -> tuple[int, ...]:
        """The token ids of an image's positions; ``EMBEDDED`` where an embedding stands. Raises ``RequestError`` for what is no image."""
        ...

    def grid(self, media: Media) -> tuple[int, int] | None:
        """Rows and columns of the embeddings, where each has a place in the image by which it is rotated; None: each follows the other."""
        ...

    def prepared(self, media: Media) -> npt.NDArray[np.float32]:
        """The pixels as ``embeddings`` takes them."""
        ...

    def embeddings(self, body: Any, pixels: Tensor, media: Media) -> Tensor:
        """What the model without its head makes of an image: [positions, width], where the first ``hidden_size`` columns of the width are
        the embedding, and further ones are added to the hidden states after the first layers."""
        ...


def check_image(media: Media) -> None:
    """Raise ``RequestError`` where media are no image."""
    data = media.data
    if media.kind != IMAGE:
        raise RequestError(f"The model reads images, and it was given media of the kind {media.kind!r}; leave that out.")
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
        raise RequestError(f"The image is {data.dtype} of shape {data.shape}, and it must be uint8 [height, width, 3].")


@attrs.frozen
class ImageReader:
    """``Images`` of Idefics3 and SmolVLM: tiles, and the tokens around them.

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
        settings, vision = TileSettings.of(settings_of(checkpoint)), checkpoint.config.get("vision_config")
        sizes = vision if isinstance(vision, Mapping) else {}
        patch, scale = whole_number(checkpoint, sizes, "patch_size", 32), whole_number(checkpoint, checkpoint.config, "scale_factor", 2)
        size = whole_number(checkpoint, sizes, "image_size", 224)
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
        check_image(media)
        return self.settings.layout(*media.data.shape[:2])

    def ids(self, media: Media) -> tuple[int, ...]:
        """The token ids of an image's positions; ``EMBEDDED`` where the vision tower's output stands, tile by tile."""
        layout = self.check(media)
        found: tuple[int, ...] = self._ids(layout.rows, layout.columns)
        return found

    def grid(self, media: Media) -> None:
        return None

    def prepared(self, media: Media) -> npt.NDArray[np.float32]:
        """float32 [tiles, 3, edge, edge]."""
        return self.settings.tiles(media.data)

    def embeddings(self, body: Any, pixels: Tensor, media: Media) -> Tensor:
        found = [body.connector(body.vision_model(pixel_values=part).last_hidden_state) for part in torch.split(pixels, _TILES)]
        return torch.cat(found).flatten(0, 1)

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


def settings_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
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


def whole_number(checkpoint: Checkpoint, config: Mapping[str, Any], name: str, default: int) -> int:
    """A value of config.json that is a whole number above 0. Raises ``CheckpointError`` for another."""
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json of {checkpoint.path} has {name} = {str(value)[:40]!r}, and it must be a whole number above 0.")
    return value
