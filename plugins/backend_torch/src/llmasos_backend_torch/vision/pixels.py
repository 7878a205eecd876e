"""Images that are read as one: of one size for all (LLaVA, Gemma 3), or in as many patches as their size takes (Qwen's)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.vision.images import EMBEDDED, check_image, settings_of, whole_number
from llmasos_hookspecs import Checkpoint, CheckpointError, Media, UnsupportedModel
from llmasos_image_input.crops import CropSettings
from llmasos_image_input.patches import PatchSettings
from llmasos_image_input.settings import check_ratio


@attrs.frozen(kw_only=True)
class FixedImages:
    """``Images`` of LLaVA and Gemma 3: every image has one size, and takes as many positions.

    Attributes:
        settings: how images are prepared.
        before, after: token ids around the embeddings.
        count: embeddings of an image.
        layer, select: of LLaVA: the vision tower's layer whose states are taken, and whether its first position is left out.
    """

    settings: CropSettings
    count: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    layer: Any = None
    select: str = ""

    @classmethod
    def of_llava(cls, checkpoint: Checkpoint) -> FixedImages:
        """Raises ``CheckpointError`` where the configs of model and images do not fit together."""
        settings, config = CropSettings.of_clip(settings_of(checkpoint)), checkpoint.config
        select = str(config.get("vision_feature_select_strategy", "default"))
        if select not in ("default", "full"):
            raise UnsupportedModel(f"{checkpoint.path} has vision_feature_select_strategy = {select[:40]!r}; default and full are known.")
        vision = _vision(checkpoint)
        if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
            raise UnsupportedModel(f"{checkpoint.path} has a vision tower other than CLIP, and with LLaVA only that is computed.")
        patches = _patches(checkpoint, settings)
        layer = config.get("vision_feature_layer", -2)
        return cls(settings=settings, count=patches + (select == "full"), layer=layer, select=select)

    @classmethod
    def of_gemma3(cls, checkpoint: Checkpoint) -> FixedImages:
        """Raises ``CheckpointError`` where the configs of model and images do not fit together."""
        settings, tokenizer = CropSettings.of_gemma3(settings_of(checkpoint)), checkpoint.tokenizer()
        _patches(checkpoint, settings)

        def text(name: str, default: int) -> str:
            token = whole_number(checkpoint, checkpoint.config, name, default)
            if token >= tokenizer.vocab_size:
                raise CheckpointError(f"config.json of {checkpoint.path} has {name} = {token}, which is no token; get the model again.")
            return tokenizer.token_bytes(token).decode("utf-8", "replace")

        begin, end = text("boi_token_index", 255_999), text("eoi_token_index", 256_000)
        count = whole_number(checkpoint, checkpoint.config, "mm_tokens_per_image", 256)
        before, after = (tuple(tokenizer.encode(each, special=False)) for each in (f"\n\n{begin}", f"{end}\n\n"))
        return cls(settings=settings, count=count, before=before, after=after)

    @property
    def preprocessing(self) -> str:
        return str(self)

    def ids(self, media: Media) -> tuple[int, ...]:
        check_image(media)
        check_ratio(*media.data.shape[:2])
        return (*self.before, *[EMBEDDED] * self.count, *self.after)

    def grid(self, media: Media) -> None:
        return None

    def prepared(self, media: Media) -> npt.NDArray[np.float32]:
        """float32 [1, 3, height, width]."""
        return self.settings.pixels(media.data)[None]

    def embeddings(self, body: Any, pixels: Tensor, media: Media) -> Tensor:
        # LLaVA takes the states of a layer within its tower.
        how = {} if self.layer is None else {"vision_feature_layer": self.layer, "vision_feature_select_strategy": self.select}
        more = {} if self.layer is None else {"output_hidden_states": True}
        found: Tensor = body.get_image_features(pixel_values=pixels, **how, **more).pooler_output[0]
        return found


@attrs.frozen
class PatchImages:
    """``Images`` of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a position for each group of patches, rotated by its place in the image."""

    settings: PatchSettings

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PatchImages:
        """Raises ``CheckpointError`` where the configs of model and images do not fit together."""
        settings, vision = PatchSettings.of(settings_of(checkpoint)), _vision(checkpoint)
        sizes = [
            whole_number(checkpoint, vision, name, default)
            for name, default in (("patch_size", settings.patch), ("spatial_merge_size", 2), ("temporal_patch_size", 2))
        ]
        if sizes != [settings.patch, settings.merge, settings.temporal]:
            raise CheckpointError(f"{checkpoint.path} has patches of other sizes in its two configs, which do not fit; get it again.")
        return cls(settings)

    @property
    def preprocessing(self) -> str:
        return str(self)

    def ids(self, media: Media) -> tuple[int, ...]:
        rows, columns = self.grid(media)
        return (EMBEDDED,) * (rows * columns)

    def grid(self, media: Media) -> tuple[int, int]:
        check_image(media)
        return self.settings.grid(*media.data.shape[:2])

    def prepared(self, media: Media) -> npt.NDArray[np.float32]:
        """float32 [patches, values of a patch]."""
        return self.settings.patches(media.data)

    def embeddings(self, body: Any, pixels: Tensor, media: Media) -> Tensor:
        rows, columns = self.grid(media)
        size = torch.tensor([[1, rows * self.settings.merge, columns * self.settings.merge]], device=pixels.device)
        found = body.get_image_features(pixel_values=pixels, image_grid_thw=size)
        deep = getattr(found, "deepstack_features", None) or ()
        return torch.cat([found.pooler_output[0], *(each[0] for each in deep)], dim=-1)


def _vision(checkpoint: Checkpoint) -> Mapping[str, Any]:
    vision = checkpoint.config.get("vision_config")
    return vision if isinstance(vision, Mapping) else {}


def _patches(checkpoint: Checkpoint, settings: CropSettings) -> int:
    """Patches of an image."""
    vision = _vision(checkpoint)
    size, patch = whole_number(checkpoint, vision, "image_size", 224), whole_number(checkpoint, vision, "patch_size", 16)
    if (settings.height, settings.width) != (size, size) or size % patch:
        raise CheckpointError(
            f"{checkpoint.path} has vision_config.image_size = {size}, patches of {patch} pixels and images of {settings.width} x "
            f"{settings.height}, which do not fit together; get the model again."
        )
    return (size // patch) ** 2
