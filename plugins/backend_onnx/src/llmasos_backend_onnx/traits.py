"""Which decoders this plugin builds a graph for, decided from their config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmasos_encoder_kit.choice import is_encoder
from llmasos_encoder_kit.config import read_config
from llmasos_hookspecs import NEUTRAL_FORMATS, beyond

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, DecoderConfig

#: Supported features beyond the plain Llama form; see ``DecoderConfig.traits``.
TRAITS: Final = frozenset(
    {
        "layer types",
        "partial rotary",
        "interleaved rotary",
        "yarn rope",
        "longrope",
        "layer norm",
        "norm offset",
        "norms without weight",
        "gelu activation",
        "gelu_tanh activation",
        "relu activation",
        "relu2 activation",
        "no gate",
        "post block",
        "sandwich block",
        "parallel block",
        "wide qk norm",
        "head bias",
        "embedding scale",
        "residual scale",
        "attention scale",
        "attention softcap",
        "logit scale",
        "logit softcap",
        "fused tensors",
        "other names",
    }
)


def takes(checkpoint: Checkpoint) -> str | None:
    """Why this loader does not support a checkpoint, as the end of a sentence ("it has ..."); None if it does.

    Raises:
        UnsupportedModel: neither ``DecoderConfig`` nor, of an encoder, ``EncoderConfig`` describes the architecture.
        CheckpointError: a size is missing or impossible.
    """
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None  # an export brings its graph
    if is_encoder(checkpoint):
        read_config(checkpoint.config, str(checkpoint.path))
        return None
    return refusal(checkpoint.decoder)


def refusal(config: DecoderConfig) -> str | None:
    """Why no graph can be built for a decoder, as the end of a sentence; None if one can."""
    # The attention operator reads a scale or softcap of 0 as "none".
    if config.score_scale == 0.0 or config.attention_softcap == 0.0:
        return "it has an attention scale or softcap of 0"
    return beyond(config, TRAITS)
