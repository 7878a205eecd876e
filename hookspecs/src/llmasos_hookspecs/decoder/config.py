"""The description of a decoder-only language model: shapes and switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import attrs

from llmasos_hookspecs.decoder.rope import Rope, RopeScaling


@attrs.frozen(kw_only=True)
class DecoderLayer:
    """Attention settings of one layer, which may differ from layer to layer.

    Attributes:
        window: tokens that a token attends to, itself included; None: all before it.
        rope: None where queries and keys are not rotated.
    """

    window: int | None
    rope: Rope | None


@attrs.frozen(kw_only=True)
class TensorNames:
    """The tensor names of a family; those of a layer's modules follow the prefix ``layer``. None: the family has no such tensor.

    One module for ``q``, ``k`` and ``v`` holds their rows one behind the other, or head by head where ``qkv_by_head`` is set; so does one
    for ``gate`` and ``up``. A norm's name is that of its place: ``attention_norm`` and ``mlp_norm`` come before, ``attention_out_norm``
    and ``mlp_out_norm`` behind, ``q_norm`` and ``k_norm`` on what attention projects.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{}"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    attention_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    attention_out_norm: str | None = None
    mlp_out_norm: str | None = None
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    qkv_by_head: bool = False


@attrs.frozen(kw_only=True)
class Part:
    """A linear layer, or the rows of one that holds several.

    Attributes:
        module: name of the stored module; its tensors are ``module.weight`` and, with ``bias``, ``module.bias``.
        shape: rows and columns of the part.
        rows: where its rows lie in the stored tensors, in order; None: they are the whole of it.
        bias: whether it has one, in the same rows.
    """

    module: str
    shape: tuple[int, int]
    rows: tuple[range, ...] | None = None
    bias: bool = False

    def row_indices(self) -> list[int] | None:
        """Indices of the part's rows in the stored tensors; None: all of them."""
        return None if self.rows is None else [row for block in self.rows for row in block]


@attrs.frozen(kw_only=True)
class DecoderConfig:
    """Shapes and switches of a decoder; every count is in elements, not bytes.

    The defaults are the plain Llama form; ``traits`` names the differences from it, all of which an implementation must support.
    For each layer, with x the residual stream, f the attention and g the feed-forward:

    - ``block = "pre"``: x += f(norm(x)); x += g(norm(x))
    - ``block = "post"``: x += norm(f(x)); x += norm(g(x))
    - ``block = "sandwich"``: x += norm(f(norm(x))); x += norm(g(norm(x)))
    - ``block = "parallel"``: x += f(norm(x)) + g(norm(x)), one norm for both where ``names.mlp_norm`` is None

    Attributes:
        attention_bias: q, k and v carry a bias; ``output_bias``: ``o_proj`` does; ``mlp_bias``, ``head_bias`` likewise.
        norm: ``rms`` (Zhang and Sennrich, arXiv:1910.07467) or ``layer`` (with the mean taken off; Ba et al., arXiv:1607.06450).
        norm_offset: added to the stored weight of every norm (q and k norms too).
        norm_bias, norm_weight: whether norms have either.
        activation: ``silu``, ``gelu`` (by erf), ``gelu_tanh``, ``relu`` or ``relu2`` (relu squared).
        gated: down(activation(gate(x)) * up(x)), else down(activation(up(x))).
        qk_norm: queries and keys are normed before they are rotated, with an RMS norm; ``qk_norm_width``: over all heads together with a
            weight of that width, else over each head with a weight of ``head_dim``.
        sliding_window: in tokens, None where attention is full; rope_theta, rope_scaling, rotary_dim (None: the whole head),
            rope_interleaved: of every layer, unless ``layers`` is given.
        layers: each layer's own window and rope; empty where all are alike. Ask ``layer(index)``.
        embedding_scale: the embedding is multiplied by it; residual_scale: what each block adds to the stream is.
        attention_scale: scores are multiplied by it; None: ``head_dim ** -0.5``.
        attention_softcap, logit_softcap: c * tanh(value / c) of scores (before the mask) and of logits.
        logit_scale: logits are multiplied by it, before ``logit_softcap``.
        names: where the family keeps its tensors.
        eos_token_ids: tokens that end a generation.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    activation: str = "silu"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    layers: tuple[DecoderLayer, ...] = ()
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    norm_bias: bool = False
    norm_weight: bool = True
    block: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    gated: bool = True
    qk_norm_width: bool = False
    head_bias: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    names: TensorNames = attrs.field(factory=TensorNames)

    @property
    def kv_width(self) -> int:
        """Elements that one token adds to the keys (and as many to the values) of one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def score_scale(self) -> float:
        """The factor of attention scores."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def layer(self, index: int) -> DecoderLayer:
        """Window and rope of one layer."""
        if self.layers:
            return self.layers[index]
        rope = Rope(
            theta=self.rope_theta, dim=self.rotary_dim or self.head_dim, interleaved=self.rope_interleaved, scaling=self.rope_scaling
        )
        return DecoderLayer(window=self.sliding_window, rope=rope)

    @property
    def traits(self) -> frozenset[str]:
        """What this decoder has beyond the plain Llama form, one name a trait; empty for a plain one.

        ``layer types`` (layers differ in window or rope), ``partial rotary``, ``interleaved rotary``, ``yarn rope``, ``longrope``,
        ``layer norm`` (maybe with bias), ``norm offset``, ``norms without weight``, ``NAME activation``, ``no gate``, ``NAME block``
        (post, sandwich, parallel), ``wide qk norm``, ``head bias``, ``embedding scale``, ``residual scale``, ``attention scale``,
        ``attention softcap``, ``logit scale``, ``logit softcap``, ``fused tensors`` (a stored tensor holds several parts), ``other names``
        (of tensors).
        """
        ropes = [layer.rope for layer in (self.layers or (self.layer(0),)) if layer.rope is not None]
        kinds = {rope.scaling.kind for rope in ropes if rope.scaling is not None}
        names, plain = self.names, TensorNames()
        fused = names.q == names.k or (self.gated and names.gate == names.up)
        modules = ("embedding", "final_norm", "head", "layer", "q", "k", "v", "o", "up", "down", "q_norm", "k_norm")
        found = {
            "layer types": bool(self.layers),
            "partial rotary": any(rope.dim != self.head_dim for rope in ropes),
            "interleaved rotary": any(rope.interleaved for rope in ropes),
            "yarn rope": "yarn" in kinds,
            "longrope": "longrope" in kinds,
            "layer norm": self.norm == "layer",
            "norm offset": self.norm_offset != 0.0,
            "norms without weight": not self.norm_weight,
            f"{self.activation} activation": self.activation != "silu",
            "no gate": not self.gated,
            f"{self.block} block": self.block != "pre",
            "wide qk norm": self.qk_norm and self.qk_norm_width,
            "head bias": self.head_bias,
            "embedding scale": self.embedding_scale != 1.0,
            "residual scale": self.residual_scale != 1.0,
            "attention scale": self.attention_scale is not None,
            "attention softcap": self.attention_softcap is not None,
            "logit scale": self.logit_scale != 1.0,
            "logit softcap": self.logit_softcap is not None,
            "fused tensors": fused,
            "other names": not fused and any(getattr(names, module) != getattr(plain, module) for module in modules),
        }
        return frozenset(name for name, present in found.items() if present)

    def linears(self, layer: int) -> dict[str, Part]:
        """The linear layers of one layer: ``q``, ``k``, ``v``, ``o``, ``gate`` (where gated), ``up`` and ``down``."""
        names, hidden, inner = self.names, self.hidden_size, self.intermediate_size
        at = names.layer.format(layer)
        heads = {"q": self.num_heads, "k": self.num_kv_heads, "v": self.num_kv_heads}
        rows: dict[str, tuple[range, ...] | None] = dict.fromkeys(("q", "k", "v", "gate", "up"))
        if names.q == names.k:
            rows |= self._fused_qkv(heads)
        if self.gated and names.gate == names.up:
            rows |= {"gate": (range(inner),), "up": (range(inner, 2 * inner),)}
        found = {
            part: Part(
                module=f"{at}.{getattr(names, part)}", shape=(count * self.head_dim, hidden), rows=rows[part], bias=self.attention_bias
            )
            for part, count in heads.items()
        }
        found["o"] = Part(module=f"{at}.{names.o}", shape=(hidden, self.num_heads * self.head_dim), bias=self.output_bias)
        for part in ("gate", "up") if self.gated else ("up",):
            found[part] = Part(module=f"{at}.{getattr(names, part)}", shape=(inner, hidden), rows=rows[part], bias=self.mlp_bias)
        found["down"] = Part(module=f"{at}.{names.down}", shape=(hidden, inner), bias=self.mlp_bias)
        return found

    def norms(self, layer: int) -> dict[str, str]:
        """The norms of one layer that the decoder has: place (a field of ``TensorNames``) -> module."""
        places = ["attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm"] + ["q_norm", "k_norm"] * self.qk_norm
        at = self.names.layer.format(layer)
        return {place: f"{at}.{name}" for place in places if (name := getattr(self.names, place)) is not None}

    def norm_size(self, place: str) -> int:
        """Elements of the weight of a norm in that place."""
        heads = {"q_norm": self.num_heads, "k_norm": self.num_kv_heads}
        if place not in heads:
            return self.hidden_size
        return heads[place] * self.head_dim if self.qk_norm_width else self.head_dim

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint of this decoder holds, in Hugging Face's names; no head where it is tied."""
        names = self.names
        shapes: dict[str, tuple[int, ...]] = {f"{names.embedding}.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_layers):
            for place, module in self.norms(layer).items():
                shapes |= self._norm_shapes(module, self.norm_size(place), bias=self.norm_bias and place not in ("q_norm", "k_norm"))
            rows: dict[str, int] = {}
            parts = self.linears(layer).values()
            for part in parts:
                rows[part.module] = rows.get(part.module, 0) + part.shape[0]
            for part in parts:
                shapes[f"{part.module}.weight"] = (rows[part.module], part.shape[1])
                if part.bias:
                    shapes[f"{part.module}.bias"] = (rows[part.module],)
        shapes |= self._norm_shapes(names.final_norm, self.hidden_size, bias=self.norm_bias)
        if not self.tie_embeddings:
            shapes[f"{names.head}.weight"] = (self.vocab_size, self.hidden_size)
        if self.head_bias:
            shapes[f"{names.head}.bias"] = (self.vocab_size,)
        return shapes

    def _norm_shapes(self, module: str, size: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"{module}.weight": (size,)} if self.norm_weight else {}
        return shapes | ({f"{module}.bias": (size,)} if bias else {})

    def _fused_qkv(self, heads: Mapping[str, int]) -> dict[str, tuple[range, ...]]:
        dim = self.head_dim
        if self.names.qkv_by_head:
            each = 3 * dim
            return {
                part: tuple(range(head * each + at * dim, head * each + (at + 1) * dim) for head in range(self.num_heads))
                for at, part in enumerate("qkv")
            }
        rows: dict[str, tuple[range, ...]] = {}
        begin = 0
        for part, count in heads.items():
            rows[part] = (range(begin, begin + count * dim),)
            begin += count * dim
        return rows

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a Hugging Face ``config.json``.

        A missing key has the default of its architecture, as transformers gives it (``families``).

        Raises:
            UnsupportedModel: the architecture, or something that the config asks of it, is not one that this class describes.
            CheckpointError: a size is missing, or a value impossible.
        """
        from llmasos_hookspecs.decoder.reading import read_config

        return cls(**read_config(config))
