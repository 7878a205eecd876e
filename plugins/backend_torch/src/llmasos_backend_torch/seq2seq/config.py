"""What config.json says of an encoder-decoder; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from llmasos_hookspecs import Checkpoint, CheckpointError, UnsupportedModel

Positions = Literal["relative", "learned", "sinusoidal", "sinusoidal_padded"]

#: ``model_type`` values that are computed.
T5_KINDS: Final = ("t5", "mt5")
BART_KINDS: Final = ("bart", "mbart", "marian", "m2m_100", "pegasus")
WHISPER: Final = "whisper"
KINDS: Final = (*T5_KINDS, *BART_KINDS, WHISPER)

#: Activation functions of the feed-forward layers.
ACTIVATIONS: Final = ("relu", "gelu", "gelu_new", "silu", "swish")

#: T5 attends by distance alone and has no longest sequence; it was trained on this many tokens.
_T5_LENGTH: Final = 512


@attrs.frozen(kw_only=True)
class Stack:
    """The layers of the encoder, or of the decoder."""

    layers: int
    heads: int
    inner: int


@attrs.frozen(kw_only=True)
class Sound:
    """Sources of sound: log-mel features float [bins, 2 * positions], of which convolutions make ``positions`` hidden states."""

    bins: int
    positions: int


@attrs.frozen(kw_only=True)
class Seq2SeqConfig:
    """The architecture of an encoder-decoder.

    Attributes:
        kind: ``model_type``.
        vocab_size: of the target, whose logits have this width.
        source_vocab_size: of the source; that of the target but for Marian models with two vocabularies.
        width: of hidden states.
        head_dim: of keys, queries and values.
        encoder, decoder: their layers.
        positions: how a token's place is told: by a bias on attention scores, or by a table of embeddings.
        max_positions: tokens of source and of target at most; None: any number.
        first_row: row of the position table that belongs to position 0.
        norm_first: norms stand before attention and feed-forward layers, not after their sums.
        embed_norm, final_norm: a norm after the embeddings, after the last layer.
        norm_eps: added to the variance.
        activation: of the feed-forward layers.
        gated: they have a second projection, which the activated first one multiplies.
        attention_scale: multiplies attention scores.
        embed_scale: multiplies token embeddings.
        output_scale: multiplies the final hidden states before the head.
        buckets, max_distance: of the relative position bias (Raffel et al., 2020).
        sound: what sources are made of; None: tokens.
    """

    kind: str
    vocab_size: int
    source_vocab_size: int
    width: int
    head_dim: int
    encoder: Stack
    decoder: Stack
    positions: Positions
    max_positions: int | None
    first_row: int = 0
    norm_first: bool
    embed_norm: bool
    final_norm: bool
    norm_eps: float
    activation: str
    gated: bool
    attention_scale: float
    embed_scale: float
    output_scale: float = 1.0
    buckets: int = 32
    max_distance: int = 128
    sound: Sound | None = None

    @property
    def is_t5(self) -> bool:
        return self.kind in T5_KINDS

    @property
    def target_length(self) -> int:
        """Tokens of a target, and of a source of tokens, where nothing else limits them."""
        return self.max_positions or _T5_LENGTH

    def kv_width(self) -> int:
        """Numbers of the keys of one token in one layer of the decoder."""
        return self.decoder.heads * self.head_dim


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes an encoder-decoder that is computed here."""
    return config.get("model_type") in KINDS and config.get("is_encoder_decoder", True) is True


def read_config(checkpoint: Checkpoint) -> Seq2SeqConfig:
    """Read config.json.

    Raises:
        UnsupportedModel: a switch that is not computed.
        CheckpointError: a value is missing or of the wrong type.
    """
    reader = _Reader(checkpoint)
    kind = reader.config["model_type"]
    found = _t5(reader, kind) if kind in T5_KINDS else _whisper(reader) if kind == WHISPER else _bart(reader, kind)
    if found.activation not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{checkpoint.path} has the activation function {found.activation[:40]!r}; computed are {', '.join(ACTIVATIONS)}."
        )
    return found


class _Reader:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self._path = checkpoint.path

    def size(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
            raise CheckpointError(f"config.json of {self._path} has {name} = {value!r:.40}, and it must be a whole number of at least 1.")
        return value

    def text(self, name: str, default: str) -> str:
        value = self.config.get(name, default)
        if not isinstance(value, str):
            raise CheckpointError(f"config.json of {self._path} has {name} = {value!r:.40}, and it must be a text.")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise CheckpointError(f"config.json of {self._path} has {name} = {value!r:.40}, and it must be a number from 0 to 1.")
        return float(value)

    def switch(self, name: str, default: bool) -> bool:
        value = self.config.get(name, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"config.json of {self._path} has {name} = {value!r:.40}, and it must be true or false.")
        return value


def _t5(reader: _Reader, kind: str) -> Seq2SeqConfig:
    width, heads, inner, layers = (reader.size(name) for name in ("d_model", "num_heads", "d_ff", "num_layers"))
    projection = reader.text("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    gated = projection.startswith("gated-")
    # T5 1.1 and mT5 neither tie the head nor scale its input; the files say the first, and transformers takes it for the second.
    scales = kind == "t5" and reader.switch("scale_decoder_outputs", reader.switch("tie_word_embeddings", True))
    return Seq2SeqConfig(
        kind=kind,
        vocab_size=reader.size("vocab_size"),
        source_vocab_size=reader.size("vocab_size"),
        width=width,
        head_dim=reader.size("d_kv"),
        encoder=Stack(layers=layers, heads=heads, inner=inner),
        decoder=Stack(layers=reader.size("num_decoder_layers", layers), heads=heads, inner=inner),
        positions="relative",
        max_positions=None,
        norm_first=True,
        embed_norm=False,
        final_norm=True,
        norm_eps=reader.number("layer_norm_epsilon", 1e-6),
        activation="gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-"),
        gated=gated,
        attention_scale=1.0,
        embed_scale=1.0,
        output_scale=width**-0.5 if scales else 1.0,
        buckets=reader.size("relative_attention_num_buckets", 32),
        max_distance=reader.size("relative_attention_max_distance", 128),
    )


def _stacks(reader: _Reader, width: int) -> tuple[Stack, Stack]:
    """Encoder and decoder of BART and its relatives."""
    encoder, decoder = (
        Stack(layers=reader.size(f"{side}_layers"), heads=reader.size(f"{side}_attention_heads"), inner=reader.size(f"{side}_ffn_dim"))
        for side in ("encoder", "decoder")
    )
    if width % encoder.heads or encoder.heads != decoder.heads:
        raise UnsupportedModel(
            f"config.json has {encoder.heads} heads in the encoder and {decoder.heads} in the decoder of width {width}; computed are as "
            "many in both, of one width."
        )
    return encoder, decoder


def _whisper(reader: _Reader) -> Seq2SeqConfig:
    """A BART whose norms come first, whose positions are stored for both sides, and whose sources are sound (arXiv:2212.04356)."""
    width, vocab = reader.size("d_model"), reader.size("vocab_size")
    encoder, decoder = _stacks(reader, width)
    head_dim = width // encoder.heads
    return Seq2SeqConfig(
        kind=WHISPER,
        vocab_size=vocab,
        source_vocab_size=vocab,
        width=width,
        head_dim=head_dim,
        encoder=encoder,
        decoder=decoder,
        positions="learned",
        max_positions=reader.size("max_target_positions", 448),
        norm_first=True,
        embed_norm=False,
        final_norm=True,
        norm_eps=1e-5,
        activation=reader.text("activation_function", "gelu"),
        gated=False,
        attention_scale=head_dim**-0.5,
        embed_scale=1.0,
        sound=Sound(bins=reader.size("num_mel_bins", 80), positions=reader.size("max_source_positions", 1500)),
    )


def _bart(reader: _Reader, kind: str) -> Seq2SeqConfig:
    width = reader.size("d_model")
    encoder, decoder = _stacks(reader, width)
    vocab, positions = reader.size("vocab_size"), reader.size("max_position_embeddings", 1024)
    tables: dict[str, tuple[Positions, int]] = {
        "bart": ("learned", 2),
        "mbart": ("learned", 2),
        "marian": ("sinusoidal", 0),
        "pegasus": ("sinusoidal", 0),
        "m2m_100": ("sinusoidal_padded", int(reader.config.get("pad_token_id", 1)) + 1),
    }
    table, first_row = tables[kind]
    shared = reader.switch("share_encoder_decoder_embeddings", True)
    head_dim = width // encoder.heads
    return Seq2SeqConfig(
        kind=kind,
        vocab_size=vocab if shared else reader.size("decoder_vocab_size", vocab),
        source_vocab_size=vocab,
        width=width,
        head_dim=head_dim,
        encoder=encoder,
        decoder=decoder,
        positions=table,
        max_positions=positions,
        first_row=first_row,
        norm_first=kind in ("mbart", "m2m_100", "pegasus"),
        embed_norm=kind in ("bart", "mbart"),
        final_norm=kind in ("mbart", "m2m_100", "pegasus"),
        norm_eps=1e-5,
        activation=reader.text("activation_function", "relu" if kind == "m2m_100" else "gelu"),
        gated=False,
        attention_scale=head_dim**-0.5,
        embed_scale=width**0.5 if reader.switch("scale_embedding", kind == "m2m_100") else 1.0,
    )
