"""Maps stored tensor names to those of the whole decoder: base models lack the prefix, and a head may be stored though it is tied."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from llmasos_hookspecs import DECODER_FAMILIES, TensorNames

#: Buffers that old files store and that follow from the config.
_DERIVED: Final = (
    "rotary_emb.inv_freq", ".attention.bias", ".attn.bias", "masked_bias", "position_ids", "token_type_ids", "num_batches_tracked",
)  # fmt: skip

#: How the names of token embeddings end that heads are tied to, in families that are not described.
_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")

#: What stands for a family's own prefix: nothing where a base model was saved, else the place of the text model in one that sees too.
_PREFIXES: Final = ("", "language_model.model.", "model.language_model.", "language_model.")


def neutral_name(names: Iterable[str], config: Mapping[str, Any]) -> Callable[[str], str]:
    """A map from the stored name of a weight to its name in the whole decoder, for the families in ``DecoderConfig``.

    Weights of other families keep their names. The name of the embedding, which every such file holds, shows the stored prefix.
    """
    found, family = set(names), _family(config)
    if family is None or f"{family.embedding}.weight" in found:
        return str
    own, _, leaf = family.embedding.partition(".")
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}{leaf}.weight" in found), None)
    return str if prefix is None else Prefixed(prefix, f"{own}.", f"{family.head}.")


@attrs.frozen
class Prefixed:
    """Puts ``own`` in the place of ``prefix``; names that begin with ``head`` have no prefix."""

    prefix: str
    own: str
    head: str

    def __call__(self, name: str) -> str:
        head = name.removeprefix("language_model.")
        if head.startswith(self.head):
            return head
        return f"{self.own}{name.removeprefix(self.prefix)}" if name.startswith(self.prefix) else name


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


def tied_pair(names: Collection[str], config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The token embedding and the head that may be tied to it, where both are stored and their names say which they are."""
    family = _family(config)
    head = "lm_head.weight" if family is None else f"{family.head}.weight"
    endings = _EMBEDDINGS if family is None else (f"{family.embedding}.weight",)
    embedding = next((name for name in names if name.endswith(endings)), None)
    return None if embedding is None or head not in names else (embedding, head)


def _family(config: Mapping[str, Any]) -> TensorNames | None:
    kind = config.get("model_type")
    family = DECODER_FAMILIES.get(kind) if isinstance(kind, str) else None
    return None if family is None else family.names
