"""The families of vision-language models, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from llmasos_backend_torch.vision.images import ImageReader, Images
from llmasos_backend_torch.vision.pixels import FixedImages, PatchImages
from llmasos_hookspecs import Checkpoint


@attrs.frozen
class Family:
    """One family.

    Attributes:
        images: reads a checkpoint's way to read images.
        texts: ``model_type`` of the text models that it is computed with.
        tower: attribute of the model that is its vision tower; ``text``: that is its text model.
        placeholder: attribute of the config with the token that the chat template writes for an image.
        whole: the embeddings of an image attend to each other in both directions.
    """

    images: Callable[[Checkpoint], Images]
    texts: tuple[str, ...]
    tower: str
    text: str = "language_model"
    placeholder: str = "image_token_id"
    whole: bool = False


_TILES: Final = Family(ImageReader.of, ("llama",), "vision_model", "text_model")

FAMILIES: Final[Mapping[str, Family]] = {
    "idefics3": _TILES,
    "smolvlm": _TILES,
    "llava": Family(FixedImages.of_llava, ("llama", "mistral", "qwen2"), "vision_tower"),
    "gemma3": Family(FixedImages.of_gemma3, ("gemma3_text",), "vision_tower", placeholder="boi_token_index", whole=True),
    "qwen2_vl": Family(PatchImages.of, ("qwen2_vl_text",), "visual"),
    "qwen2_5_vl": Family(PatchImages.of, ("qwen2_5_vl_text",), "visual"),
    "qwen3_vl": Family(PatchImages.of, ("qwen3_vl_text",), "visual"),
}
