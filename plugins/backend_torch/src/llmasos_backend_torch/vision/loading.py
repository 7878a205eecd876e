"""Makes the engine of a vision-language model."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.loading import engine_info, reading
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.plan import plan_step
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.transformers_model import load_model, use_kernels
from llmasos_backend_torch.vision.engine import VisionEngine
from llmasos_backend_torch.vision.families import FAMILIES
from llmasos_backend_torch.vision.model import VisionDecoder
from llmasos_decoder_kit.encoded_media import media_bytes
from llmasos_hookspecs import Checkpoint, Context, Row, UnsupportedModel
from llmasos_image_input.reading import IMAGE


def load_vision(checkpoint: Checkpoint, options: Options, precision: Precision, context: Context) -> VisionEngine:
    """See ``llmasos_backend_torch.loading.load``."""
    family = FAMILIES[checkpoint.config["model_type"]]
    images = family.images(checkpoint)
    with reading(context, checkpoint) as advance:
        model = load_model(checkpoint, precision, advance, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    text: Any = model.config.get_text_config()
    if text.model_type not in family.texts:
        raise UnsupportedModel(
            f"{checkpoint.path} has a text model of type {text.model_type!r}, and with images {' and '.join(family.texts)} is computed."
        )
    use_kernels(model, checkpoint, precision)
    decoder = VisionDecoder(model, family, images, precision.compute)
    cache = KVCache(1, 1)
    with torch.inference_mode():
        decoder.forward(plan_step([Row(0, [0], 0)], [0], precision.device), cache)
    info = engine_info(
        precision,
        context.limits,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        weight_bytes=decoder.nbytes,
        # A slot keeps the embeddings of an image until all of it is computed.
        kv_bytes_per_token=cache.bytes_per_token + decoder.embedding_bytes,
        media_bytes=media_bytes(context.limits, decoder.nbytes, options.media_cache << 20),
    )
    info = attrs.evolve(
        info,
        features=info.features | {"media"} | ({"whole_media"} if family.whole else set()),
        preprocessing=images.preprocessing,
        media_tokens={IMAGE: int(getattr(model.config, family.placeholder))},
    )
    return VisionEngine(decoder, images, info)
