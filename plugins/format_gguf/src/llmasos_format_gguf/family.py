"""What one architecture of GGUF files is, in terms of transformers: modules, config keys and how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
from gguf.constants import MODEL_TENSOR

from llmasos_format_gguf.layouts import Layout, Same

_SAME: Final = Same()


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


@attrs.frozen
class Module:
    """One module of a Hugging Face checkpoint.

    Attributes:
        name: with ``{}`` for the layer, and ``{expert}`` for one of the matrices that GGUF stacks.
        layout: how it differs from GGUF's.
        tensors: GGUF's tensors, where the package's table does not know the name; else it says.
        bias: how its bias differs, where that is in another way.
        written: whether it is written; a form that only older files have is not.
        leaf: GGUF's leaf where Hugging Face's name has none, empty where neither has; None where both end in ``.weight`` or ``.bias``.
    """

    name: str
    layout: Layout = _SAME
    tensors: tuple[MODEL_TENSOR, ...] = ()
    leaf: str | None = None
    bias: Layout | None = None
    written: bool = True

    def layout_of(self, leaf: str) -> Layout:
        """How one leaf differs."""
        return self.bias if self.bias is not None and leaf == "bias" else self.layout


@attrs.frozen
class Field:
    """A key of ``config.json`` and the metadata key that holds it.

    Attributes:
        name: the key in ``config.json``; with a dot for a key of a nested object.
        key: the metadata key, with ``{arch}``.
        kind: ``count``, ``natural`` for one that may be 0, ``number``, ``flag``, or ``whole`` for a whole number that the metadata has as a
            float.
        default: what transformers takes where the key is missing; ``...``: it must be there.
        absent: what a file without the key means, where that is something else.
        off: what the metadata holds where the config has None; None: the key is then left out.
    """

    name: str
    key: str
    kind: str = "count"
    default: Any = ...
    absent: Any = ...
    off: int | None = None


@attrs.frozen(kw_only=True)
class StateNames:
    """What a config calls the sizes of state-space layers, each with what transformers takes where the config is silent.

    Attributes:
        conv, size: the convolution's kernel and elements of the state.
        expand, inner: how many times as wide as the rest a layer is, or how wide; without either its heads make up the width.
        rank: of the projection to time steps (Mamba).
        heads, width, groups: heads, their width, and the groups that share projections (Mamba-2). An empty name: it has none.
    """

    conv: tuple[str, int]
    size: tuple[str, int]
    expand: tuple[str, Any] = ("", None)
    inner: tuple[str, Any] = ("", None)
    rank: tuple[str, Any] = ("", None)
    heads: tuple[str, Any] = ("", None)
    width: tuple[str, Any] = ("", None)
    groups: tuple[str, Any] = ("", None)


@attrs.frozen(kw_only=True, eq=False)
class Family:
    """One architecture of GGUF as one model type of transformers.

    Attributes:
        arch, model_type, architecture: GGUF's name, ``model_type`` and the class in ``architectures``.
        modules: what a checkpoint holds.
        fields: config keys that the metadata holds as numbers, besides the sizes that all have.
        fixed: config keys that the architecture implies.
        ignored: config keys of the model type that this form of it does not read.
        present: config key -> the GGUF tensor, of layer 0 where it is a layer's, whose presence it tells.
        rename: the name that a common key has in this config.
        norm: the config's key of the norms' epsilon, empty where it has none; ``rms``: whether they are RMS norms; ``epsilon``: the
            default.
        head_dim: whether the config may give a head's width of its own; a number: the default, where that is no share of the whole.
        rope: whether it has rotary embeddings; ``partial``: the default share of a head that is rotated.
        theta: the rotary base where the config is silent; ``alpha``: whether a config may stretch it by a factor of that name.
        sections: how many pairs of a head are rotated by a position in time, in height and in width; text has one position for all three.
        scaling: how rotary frequencies are scaled where the config is silent about all of this.
        windows: layers to a full one where layers take turns; 0 where none attends to a window of its own.
        opening: how many of the first layers attend to all in any case.
        local_groups: how many times as many heads of keys the layers with a window have.
        value_dim: the config's key of the width of a head's values, where that is another, and what transformers takes.
        local_theta: the default rotary base of the layers with a window, where theirs is another.
        grouped: whether keys and values may have fewer heads than queries; ``kv_heads``: how many the architecture always has.
        four: whether the MLP is four times as wide as the rest where the config is silent.
        yarn: what YaRN scaling has in this family besides what a file says; ``grows``: whether queries grow with their position by it.
        written: metadata that says sizes once more -> the config's keys (or common names) whose product it is.
        constants: metadata that the architecture implies; a file with another value is of another family, or not read.
        latent: whether keys and values are projected from one latent vector (``gguf_latent``); ``joint``: by one matrix in GGUF too.
        scalars: tensors of one number a layer that are metadata in GGUF -> the key, and the tensor's shape.
        attention: whether any layer attends; ``hybrid``: what a config calls the kind of layers that do not, where some do.
        interval: every how manieth layer attends where neither file nor config tells it, of a family whose files tell it so; 0: the heads
            of keys tell it.
        alone: what a config calls layers that are an MLP, or experts, and nothing else; empty where each layer has its own.
        mlp: whether any layer has an MLP besides experts, so that the config tells its width.
        state: what a config calls the sizes of its state-space layers; None for none.
        ahead: whether layers that predict tokens further ahead may follow; they are neither read nor written.
        marks: tensors (of layer 0) that tell this family from others of its ``arch``; it has all of them.
        shares: whether the last layers may take keys and values of earlier ones (``sharing``); ``two_widths``: whether layers that attend
            to all have wider heads.
        unwindowed: whether llama.cpp computes it with full attention, whatever window the file tells.
        title: what the name of a file's model holds where neither metadata nor tensors tell this family from another of its ``arch``.
        dense: how many of the first layers have an MLP in place of experts where the config's ``mlp_layer_types`` is silent; None: it has
            no such list.
        tied: whether the head is the embedding's where the config is silent.
        defaults: what transformers takes for common keys that a config leaves out.
    """

    arch: str
    model_type: str
    architecture: str
    modules: tuple[Module, ...]
    fields: tuple[Field, ...] = ()
    fixed: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)
    present: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen)
    ignored: tuple[str, ...] = ()
    rename: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen)
    norm: str = "rms_norm_eps"
    rms: bool = True
    epsilon: float = 1e-6
    head_dim: int | bool = False
    rope: bool = True
    partial: float | None = None
    theta: float = 10000.0
    alpha: bool = False
    sections: tuple[int, ...] = ()
    scaling: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)
    windows: int = 0
    opening: int = 0
    local_groups: int = 1
    value_dim: tuple[str, int] | None = None
    local_theta: float | None = None
    grouped: bool = True
    kv_heads: int | None = None
    four: bool = False
    yarn: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)
    grows: bool = False
    written: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_frozen)
    constants: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)
    latent: bool = False
    joint: bool = False
    ahead: bool = False
    scalars: Mapping[str, tuple[str, tuple[int, ...]]] = attrs.field(factory=dict, converter=_frozen)
    attention: bool = True
    hybrid: str = ""
    interval: int = 0
    alone: str = ""
    mlp: bool = True
    state: StateNames | None = None
    marks: tuple[str, ...] = ()
    shares: bool = False
    two_widths: bool = False
    unwindowed: bool = False
    title: str = ""
    dense: int | None = None
    tied: bool = False
    defaults: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)

    def key(self, common: str) -> str:
        """What this family's config calls a common key."""
        return self.rename.get(common, common)
