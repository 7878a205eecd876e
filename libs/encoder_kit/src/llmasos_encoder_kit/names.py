"""The tensor names of encoders, and how the families differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

#: A position is a row of a table, or a rotation of queries and keys.
Positions = Literal["learned", "rotary"]
#: Dense layers between the first token's hidden state and the scores of a classifier: the name of each, and its activation.
HeadLayers = tuple[tuple[str, str], ...]


@attrs.frozen(kw_only=True)
class EncoderNames:
    """Names of tensors, without ``.weight`` and ``.bias``; those of layers after the layer's own.

    Attributes:
        prefixes: what stands before the names of a model that has a head; a base model has nothing there.
        words, positions, types, norm: of the embeddings; empty where the family has none.
        layer: of a layer, with its number.
        qkv: query, key and value, or one tensor of all three.
        out: of the attention.
        attention_norm, mlp_norm: after the two halves of a layer, or before them.
        up: the first matrix of the MLP; ``gate`` and ``up`` where it is gated by two, one of both halves where by one.
        down: the second.
        final_norm: after the last layer.
        relative: table of attention biases by distance.
    """

    prefixes: tuple[str, ...]
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    layer: str = "encoder.layer.{}."
    qkv: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: tuple[str, ...] = ("intermediate.dense",)
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"
    final_norm: str = ""
    relative: str = ""


@attrs.frozen(kw_only=True)
class EncoderFamily:
    """One family of encoders.

    Attributes:
        names: of its tensors; several where files differ, told apart by the embedding norm.
        position_kind: how it knows the order of tokens.
        counts_from_padding: the first position is the padding token's id plus one.
        pre_norm: norms stand before the halves of a layer rather than after them.
        gated: the MLP multiplies two halves.
        head: of a classifier; ``prefix.`` before a name stands for the model's own prefix.
        activation: of the MLP, where the config does not name one.
    """

    names: tuple[EncoderNames, ...]
    position_kind: Positions = "learned"
    counts_from_padding: bool = False
    pre_norm: bool = False
    gated: bool = False
    head: HeadLayers = (("prefix.pooler.dense", "tanh"), ("classifier", ""))
    activation: str = "gelu"


_ROBERTA_HEAD: Final = (("classifier.dense", "tanh"), ("classifier.out_proj", ""))
_BERT: Final = EncoderNames(prefixes=("bert.",))
_ROBERTA: Final = EncoderFamily(names=(EncoderNames(prefixes=("roberta.",)),), counts_from_padding=True, head=_ROBERTA_HEAD)
_MPNET: Final = EncoderNames(
    prefixes=("mpnet.",),
    types="",
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    relative="encoder.relative_attention_bias",
)
_DISTILBERT: Final = EncoderNames(
    prefixes=("distilbert.",),
    types="",
    layer="transformer.layer.{}.",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up=("ffn.lin1",),
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
)
_MODERNBERT: Final = EncoderNames(
    prefixes=("model.",),
    words="embeddings.tok_embeddings",
    positions="",
    types="",
    norm="embeddings.norm",
    layer="layers.{}.",
    qkv=("attn.Wqkv",),
    out="attn.Wo",
    attention_norm="attn_norm",
    up=("mlp.Wi",),
    down="mlp.Wo",
    mlp_norm="mlp_norm",
    final_norm="final_norm",
)
_NOMIC: Final = EncoderNames(
    prefixes=("nomic_bert.", "bert."),
    positions="",
    layer="layers.{}.",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    mlp_norm="post_mlp_layernorm",
)
#: As its authors' own code names them.
_NOMIC_PUBLISHED: Final = attrs.evolve(
    _NOMIC,
    norm="emb_ln",
    layer="encoder.layers.{}.",
    qkv=("attn.Wqkv",),
    out="attn.out_proj",
    attention_norm="norm1",
    up=("mlp.fc12", "mlp.fc11"),
    down="mlp.fc2",
    mlp_norm="norm2",
)

#: ``model_type`` -> family.
FAMILIES: Final[Mapping[str, EncoderFamily]] = {
    "bert": EncoderFamily(names=(_BERT,)),
    "distilbert": EncoderFamily(names=(_DISTILBERT,), head=(("pre_classifier", "relu"), ("classifier", ""))),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": EncoderFamily(names=(_MPNET,), counts_from_padding=True, head=_ROBERTA_HEAD),
    "modernbert": EncoderFamily(
        names=(_MODERNBERT,), position_kind="rotary", pre_norm=True, gated=True, head=(("head.dense", "gelu"), ("classifier", ""))
    ),
    "nomic_bert": EncoderFamily(names=(_NOMIC, _NOMIC_PUBLISHED), position_kind="rotary", gated=True, activation="silu"),
}
