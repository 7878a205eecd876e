"""What a file's tensors are called here: base models have no prefix, and a head may lie beside a flag that says it is tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from llmasos_hookspecs.decoder import LLAMA_FAMILY

HEAD: Final = "lm_head.weight"

#: Buffers that old files store and that follow from the config.
_DERIVED: Final = (
    "rotary_emb.inv_freq", ".attention.bias", ".attn.bias", "masked_bias", "position_ids", "token_type_ids", "num_batches_tracked",
)  # fmt: skip

#: How the names of token embeddings end that heads are tied to.
_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")

#: What stands for ``model.`` in files of the Llama family: nothing where a base model was saved, else the place of the text model in one
#: that sees or hears too.
_PREFIXES: Final = ("", "language_model.model.", "model.language_model.", "language_model.")


def neutral_name(names: Iterable[str], config: Mapping[str, Any]) -> Callable[[str], str]:
    """From the name of a weight in the file to the one that the whole decoder has, for the Llama family; other weights keep their names.

    The prefix is known by the embedding, which every such file holds.
    """
    found = set(names)
    if config.get("model_type") not in LLAMA_FAMILY or "model.embed_tokens.weight" in found:
        return str
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embed_tokens.weight" in found), None)
    return str if prefix is None else Prefixed(prefix)


@attrs.frozen
class Prefixed:
    """Puts ``model.`` in the place of another prefix."""

    prefix: str

    def __call__(self, name: str) -> str:
        head = name.removeprefix("language_model.")
        if head.startswith("lm_head."):
            return head
        return f"model.{name.removeprefix(self.prefix)}" if name.startswith(self.prefix) else name


def is_derived(name: str, dtype: str) -> bool:
    """Whether a plain tensor, of numpy's type ``dtype``, follows from the config, as masks and counters of older files do.

    Masks of a byte each have many names. Other tables of whole numbers, such as which expert a token goes to, belong to the model.
    """
    if name.endswith(".weight"):
        return False
    if name.endswith(_DERIVED[0]):
        return True
    return dtype in ("bool", "uint8", "int8") or (name.endswith(_DERIVED) and not dtype.endswith(("float16", "float32", "float64")))


def is_table(name: str, dtype: str) -> bool:
    """Whether a tensor of whole numbers belongs to the model as it is."""
    return dtype in ("int32", "int64") and not name.endswith(".weight")


def embedding_name(names: Iterable[str]) -> str | None:
    """The token embedding that a head may be tied to; None where no name says which it is."""
    return next((name for name in names if name.endswith(_EMBEDDINGS)), None)
