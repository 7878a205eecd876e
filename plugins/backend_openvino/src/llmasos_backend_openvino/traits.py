"""Which decoders this loader computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmasos_hookspecs import NEUTRAL_FORMATS, beyond

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint

#: What ``DecoderConfig`` describes beyond the plain Llama form, by the names of ``DecoderConfig.traits``.
KNOWN_TRAITS: Final = frozenset(
    {
        *("layer types", "partial rotary", "interleaved rotary", "yarn rope", "longrope"),
        *("layer norm", "norm offset", "norms without weight", "wide qk norm"),
        *("gelu activation", "gelu_tanh activation", "relu activation", "relu2 activation", "no gate"),
        *("post block", "sandwich block", "parallel block"),
        *("head bias", "embedding scale", "residual scale", "attention scale", "logit scale", "logit softcap"),
        "attention softcap",
        *("fused tensors", "other names"),
    }
)


#: The format of OpenVINO's own folders, as core calls it.
EXPORT: Final = "openvino"


def takes(checkpoint: Checkpoint) -> str | None:
    """Why the loader does not take a checkpoint, from its config alone; None where it does."""
    return beyond(checkpoint.decoder, KNOWN_TRAITS) if checkpoint.format in NEUTRAL_FORMATS else None
