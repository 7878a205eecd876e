"""Which tensors of a checkpoint are quantised."""

from __future__ import annotations

import re
from typing import Final

from llmasos_hookspecs import Checkpoint

HEAD: Final = "lm_head.weight"
EMBEDDING: Final = "model.embed_tokens.weight"
_LINEAR: Final = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


def linear_weights(checkpoint: Checkpoint) -> list[str]:
    """Names of the layers' linear weights, in the checkpoint's order."""
    return [name for name in checkpoint.names() if _LINEAR.fullmatch(name)]
