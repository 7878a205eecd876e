"""What a GGUF file of a checkpoint will hold: its metadata, its tensors, their types, and what fills each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmasos_format_gguf.describe import check_same, layout_config, metadata_of, sizes_of
from llmasos_format_gguf.families import BUFFERS, family_for
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.file import Entry
from llmasos_format_gguf.layouts import Layout, Same
from llmasos_format_gguf.names import NameTable, Place, name_table
from llmasos_format_gguf.sharing import is_spare
from llmasos_format_gguf.t5 import ARCH as T5
from llmasos_format_gguf.t5_writing import KINDS as T5_KINDS, check_t5, t5_form, t5_metadata, t5_tensors
from llmasos_hookspecs import Checkpoint, CheckpointError, UnsupportedModel, as_float32

_F32: Final = GGMLQuantizationType.F32
_F16: Final = GGMLQuantizationType.F16
_Q8_0: Final = GGMLQuantizationType.Q8_0

#: What takes the place of a type whose blocks do not divide a tensor's columns, as in llama.cpp's own quantiser.
_SMALLER_BLOCKS: Final = {GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q6_K: _Q8_0}

#: Matrices that stay float32: norms of each head, routers, positions, and what moves a state, which llama.cpp does not compute in blocks.
KEPT_F32: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "attn_sinks.weight",
    "ssm_conv1d.weight", "shortconv.conv.weight", ".ssm_a", ".ssm_d", "attn_rel_b.weight",
)  # fmt: skip

#: Matrices that a type of fewer than 8 bits costs most: each token's own row.
TOKEN_TABLES: Final = ("token_embd.weight", "output.weight")


@attrs.frozen
class Planned:
    """GGUF tensors that come of one place, the layout of that, and the Hugging Face tensors that fill them."""

    layout: Layout
    names: list[str]
    entries: tuple[Entry, ...]


@attrs.frozen(kw_only=True)
class Content:
    """What a file says of a model besides its tokenizer.

    Attributes:
        arch: the architecture.
        title: the base name by which readers tell a model from others of its architecture; empty if it needs none.
        metadata: sizes and switches.
        extra: tensors that are made of the config.
        planned: the other tensors.
        layouts: the config as layouts ask for it.
        check: raises ``CheckpointError`` for the config of a file that describes another model.
        notes: what a user should know.
    """

    arch: str
    title: str
    metadata: Mapping[str, Any]
    extra: Mapping[str, npt.NDArray[Any]]
    planned: list[Planned]
    layouts: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], None]
    notes: tuple[str, ...] = ()


def content_of(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> Content:
    """What the file will hold; errors as of ``write_gguf``."""
    where = str(checkpoint.path)
    with right_kinds(where):
        return _t5_content(checkpoint, kind) if checkpoint.config.get("model_type") in T5_KINDS else _decoder_content(checkpoint, kind)


def _decoder_content(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> Content:
    config, where = checkpoint.config, str(checkpoint.path)
    family = family_for(config, where)
    sizes = sizes_of(config, family, where)
    described, extra = metadata_of(config, family, sizes, where)
    layouts = layout_config(config, sizes, family)
    notes = []
    if family.ahead and _ahead(set(checkpoint.names()), sizes["num_hidden_layers"]):
        notes.append("The layers that predict tokens further ahead are left out.")
    notes += _window_note(checkpoint, family, sizes)
    return Content(
        arch=family.arch,
        title=family.title,
        planned=_plan(checkpoint, name_table(family), layouts, kind),
        metadata={**described, **_scalars(checkpoint, family, sizes["num_hidden_layers"])},
        extra=extra,
        layouts=layouts,
        check=lambda found: check_same(config, found, family, sizes, where),
        notes=tuple(notes),
    )


def _t5_content(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> Content:
    form, where = t5_form(checkpoint), str(checkpoint.path)
    planned = []
    for written, name in t5_tensors(checkpoint, form):
        shape = tuple(checkpoint.shape(name))
        planned.append(Planned(Same(), [name], (Entry(written, _kind(written, shape, kind), shape),)))
    notes = []
    if form["scale_decoder_outputs"]:
        notes.append("llama.cpp does not scale what a tied head reads: its likeliest tokens are the same, and its probabilities are not.")
    if form["num_decoder_layers"] > form["num_layers"]:
        notes.append("llama.cpp opens no T5 whose decoder has more layers than its encoder.")
    return Content(
        arch=T5,
        title="",
        metadata=t5_metadata(form, checkpoint.config),
        extra={},
        planned=planned,
        layouts={},
        check=lambda found: check_t5(form, found, where),
        notes=tuple(notes),
    )


def _plan(checkpoint: Checkpoint, table: NameTable, config: Mapping[str, Any], kind: GGMLQuantizationType) -> list[Planned]:
    """Every GGUF tensor, in order, with what fills it.

    Raises:
        UnsupportedModel: the checkpoint holds a tensor that GGUF has no place for.
        CheckpointError: experts or parts are missing.
    """
    names = set(checkpoint.names())
    # The count of layers is held against what is there before it is expanded.
    if (layers := config["num_hidden_layers"]) > len(names):
        raise CheckpointError(f"{checkpoint.path} says that it has {layers} layers and holds {len(names)} tensors; get it again.")
    left = {name for name in names if not name.endswith(BUFFERS)}
    left -= {name.format(layer) for name in table.family.scalars for layer in range(layers)}
    if table.family.ahead:
        left -= _ahead(names, layers)
    if table.family.shares:
        left -= {name for name in names if is_spare(name, checkpoint.config, table.family, layers)}
    planned = []
    for place, filled in table.tensors(layers, _stacks(table, names), left):
        left -= set(filled)
        planned.append(Planned(place.layout, filled, _entries(checkpoint, table, place, filled, config, kind)))
    if left:
        raise UnsupportedModel(
            f"{checkpoint.path} holds the tensor {min(left)[:80]!r}, for which a GGUF of {table.family.arch} has no place."
        )
    tied = checkpoint.config.get("tie_word_embeddings", table.family.tied)
    if not tied and not any(part.entries[0].name == "output.weight" for part in planned):
        raise CheckpointError(f"{checkpoint.path} holds no output head, and its config does not tie it to the embedding; get it again.")
    return planned


def _ahead(names: set[str], layers: int) -> set[str]:
    """Tensors of the layers after the last, which predict tokens further ahead; some call them ``mtp``."""
    found = {name for name in names if name.startswith(("mtp.", "model.mtp."))}
    for name in names:
        number = name.removeprefix("model.layers.").partition(".")[0]
        if name.startswith("model.layers.") and number.isdecimal() and len(number) < 7 and int(number) >= layers:
            found.add(name)
    return found


def _stacks(table: NameTable, names: set[str]) -> dict[str, int]:
    """Module -> how many matrices of it GGUF stacks: one more than the highest number in a name."""
    found: dict[str, int] = {}
    for module in table.family.modules:
        if "{expert}" not in module.name:
            continue
        before, _, after = module.name.partition("{expert}")
        head, _, middle = before.partition("{}")
        for name in names:
            if not name.startswith(head) or not name.endswith(f"{after}.weight"):
                continue
            layer, _, rest = name[len(head) :].partition(middle) if middle else ("0", "", name[len(head) :])
            number = rest.partition(after)[0] if after else rest.partition(".")[0]
            if layer.isdigit() and number.isdigit() and len(number) < 6:
                found[module.name] = max(found.get(module.name, 0), int(number) + 1)
    return found


def _entries(
    checkpoint: Checkpoint, table: NameTable, place: Place, filled: list[str], config: Mapping[str, Any], kind: GGMLQuantizationType
) -> tuple[Entry, ...]:
    shape = checkpoint.shape(filled[0])
    if "{expert}" in place.module.name:
        if len(filled) < 2 and place.name(0) != filled[0]:
            raise CheckpointError(f"{checkpoint.path} holds {filled[0]} and not the experts before it; get it again.")
        if any(place.name(index) != name for index, name in enumerate(filled)):
            raise CheckpointError(f"{checkpoint.path} lacks one of the experts beside {filled[-1]}; get it again.")
        shape = (len(filled), *shape)
    names = table.parts(place.module, place.leaf, place.layer)
    return tuple(Entry(name, _kind(name, part, kind), part) for name, part in zip(names, place.layout.written(shape, config), strict=True))


def _kind(name: str, shape: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type that a tensor is written in."""
    if len(shape) < 2 or name.endswith((*KEPT_F32, ".bias")):
        return _F32
    if wanted not in (_F32, _F16, GGMLQuantizationType.BF16) and name in TOKEN_TABLES and wanted != GGMLQuantizationType.Q6_K:
        wanted = _Q8_0
    while shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = _SMALLER_BLOCKS.get(wanted, _F16)
    return wanted


def _scalars(checkpoint: Checkpoint, family: Family, layers: int) -> dict[str, Any]:
    """Tensors of one number a layer, as metadata.

    Raises:
        CheckpointError: one is missing, or holds more than a number.
    """
    found: dict[str, Any] = {}
    for name, (key, shape) in family.scalars.items():
        names = [name.format(layer) for layer in range(layers)]
        if missing := set(names) - set(checkpoint.names()):
            raise CheckpointError(f"{checkpoint.path} holds no {min(missing)}; get it again.")
        if wrong := next((each for each in names if tuple(checkpoint.shape(each)) not in ((), shape)), None):
            raise CheckpointError(f"{checkpoint.path} holds more than one number in {wrong}; get it again.")
        found[key.format(arch=family.arch)] = [np.float32(as_float32(checkpoint.tensor(each)).reshape(-1)[0]) for each in names]
    return found


def _window_note(checkpoint: Checkpoint, family: Family, sizes: Mapping[str, Any]) -> list[str]:
    """What llama.cpp will do otherwise of a model whose window ends within its context."""
    default = next((field.default for field in family.fields if field.name == "sliding_window"), None)
    window = checkpoint.config.get("sliding_window", default)
    if not family.unwindowed or not isinstance(window, int) or not 0 < window < sizes["max_position_embeddings"]:
        return []
    return [f"llama.cpp computes {family.model_type} without its window of {window} tokens: longer texts differ there."]


@contextmanager
def right_kinds(where: str) -> Iterator[None]:
    """One sentence for a value of a config that is of a type that no config has."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(
            f"{where} holds a value of the wrong kind in its config ({str(error)[:80]}); get the checkpoint again."
        ) from error
