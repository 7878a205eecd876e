"""Writing a checkpoint as one GGUF file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import attrs
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, Keys, LlamaFileType

from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_format_gguf.describe import check_same, layout_config, metadata_of, sizes_of
from llmasos_format_gguf.families import BUFFERS, family_for
from llmasos_format_gguf.family import Family
from llmasos_format_gguf.file import Entry, GGUFFile
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.names import NameTable, Place, name_table
from llmasos_format_gguf.quantize import encode
from llmasos_format_gguf.sharing import is_spare
from llmasos_format_gguf.split import read_parts
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, CheckpointError, RequestError, UnsupportedModel, as_float32
from llmasos_hookspecs.atomic import flush

_F32: Final = GGMLQuantizationType.F32
_F16: Final = GGMLQuantizationType.F16
_Q8_0: Final = GGMLQuantizationType.Q8_0

#: The word of a type -> the type, and what a file that is mostly of it calls itself.
TYPES: Final[Mapping[str, tuple[GGMLQuantizationType, LlamaFileType]]] = {
    "f32": (_F32, LlamaFileType.ALL_F32),
    "f16": (_F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (_Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_k": (GGMLQuantizationType.Q4_K, LlamaFileType.MOSTLY_Q4_K_S),
    "q6_k": (GGMLQuantizationType.Q6_K, LlamaFileType.MOSTLY_Q6_K),
}

#: What takes the place of a type whose blocks do not divide a tensor's columns, as in llama.cpp's own quantiser.
_SMALLER_BLOCKS: Final = {GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q6_K: _Q8_0}

#: Matrices that stay float32: norms of each head, routers, positions, and what moves a state, which llama.cpp does not compute in blocks.
_KEPT_F32: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "attn_sinks.weight",
    "ssm_conv1d.weight", "shortconv.conv.weight", ".ssm_a", ".ssm_d",
)  # fmt: skip

#: Matrices that a type of fewer than 8 bits costs most: each token's own row.
_TOKEN_TABLES: Final = ("token_embd.weight", "output.weight")

_QUANTIZATION_VERSION: Final = 2


@attrs.frozen(kw_only=True)
class GGUFExport:
    """What was written.

    Attributes:
        path: the file; ``size``: its bytes.
        type: the word it was asked for by.
        architecture: GGUF's name of the architecture.
        tensors: how many, by type.
        tokenizer: the kind that was written (``gpt2``, ``llama``, ``t5``); None for none.
        notes: what a user should know: tensors of another type, a tokenizer that is missing.
    """

    path: Path
    size: int
    type: str
    architecture: str
    tensors: Mapping[str, int]
    tokenizer: str | None
    notes: tuple[str, ...]


@attrs.frozen
class _Planned:
    """GGUF tensors that come of one place, and the Hugging Face tensors that fill them."""

    place: Place
    names: list[str]
    entries: tuple[Entry, ...]


def write_gguf(
    checkpoint: Checkpoint, output: Path, kind: str, *, force: bool = False, advance: Callable[[int], None] | None = None
) -> GGUFExport:
    """Write ``checkpoint`` as the GGUF file ``output``, its matrices in the type that ``kind`` names.

    Stored codes are kept where the type holds them; norms, biases and routers are float32; a token table in a type of fewer than 8 bits
    is Q8_0. The file is written beside ``output`` and renamed. ``advance`` is called with the bytes written since.

    Raises:
        RequestError: ``output`` exists and ``force`` is not set, or the type is unknown.
        UnsupportedModel: the architecture, or something in its config or tokenizer, has no form in GGUF.
        CheckpointError: the checkpoint is damaged, or the file cannot be written.
    """
    check_request(output, kind, force)
    chosen, file_type = _type(kind)
    if checkpoint.format not in NEUTRAL_FORMATS:
        raise UnsupportedModel(f"{checkpoint.path} is a {checkpoint.format} export, from which no GGUF can be written.")
    where = str(checkpoint.path)
    family = family_for(checkpoint.config, where)
    with _right_kinds(where):
        table, sizes = name_table(family), sizes_of(checkpoint.config, family, where)
        described, extra = metadata_of(checkpoint.config, family, sizes, where)
    layouts = layout_config(checkpoint.config, sizes, family)
    with _right_kinds(where):
        planned = _plan(checkpoint, table, layouts, chosen)
    metadata, tokenizer, notes = _metadata(checkpoint, family, planned, file_type)
    metadata |= described | _scalars(checkpoint, family, sizes["num_hidden_layers"])
    entries = [*(Entry(name, _F32, array.shape) for name, array in extra.items()), *(e for part in planned for e in part.entries)]
    with _appearing(output) as partial, GGUFFile(partial, metadata, entries) as file:
        for name, array in extra.items():
            file.put(name, array.view(np.uint8))
        file.flush()
        _check(checkpoint, partial, planned, family, sizes)
        for part in planned:
            _fill(checkpoint, file, part, layouts, advance or _unseen)
        size = file.size
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.kind.name] = counts.get(entry.kind.name, 0) + 1
    if family.ahead and _ahead(set(checkpoint.names()), sizes["num_hidden_layers"]):
        notes.append("The layers that predict tokens further ahead are left out.")
    notes += [*_window_note(checkpoint, family, sizes), *_notes(entries, chosen)]
    return GGUFExport(path=output, size=size, type=kind, architecture=family.arch, tensors=counts, tokenizer=tokenizer, notes=tuple(notes))


def check_request(output: Path, kind: str, force: bool) -> None:
    """Raise ``RequestError`` for what ``write_gguf`` will refuse without looking at the model."""
    _type(kind)
    if output.is_dir():
        raise RequestError(f"{output} is a folder; name the file to write, such as {output / 'model.gguf'}.")
    if os.path.lexists(output) and not force:
        raise RequestError(f"{output} exists already; name another file, or give --force (force=True) to replace it.")


def export_size(checkpoint: Checkpoint, kind: str) -> int:
    """Bytes of tensors that ``write_gguf`` will write: the total of what ``advance`` is told."""
    chosen, _ = _type(kind)
    where = str(checkpoint.path)
    family = family_for(checkpoint.config, where)
    layouts = layout_config(checkpoint.config, sizes_of(checkpoint.config, family, where), family)
    with _right_kinds(where):
        planned = _plan(checkpoint, name_table(family), layouts, chosen)
    return sum(entry.nbytes for part in planned for entry in part.entries)


def _type(kind: str) -> tuple[GGMLQuantizationType, LlamaFileType]:
    try:
        return TYPES[kind.lower()]
    except KeyError:
        raise RequestError(f"There is no GGUF type {kind[:40]!r} to write; those that are: {', '.join(TYPES)}.") from None


def _plan(checkpoint: Checkpoint, table: NameTable, config: Mapping[str, Any], kind: GGMLQuantizationType) -> list[_Planned]:
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
        planned.append(_Planned(place, filled, _entries(checkpoint, table, place, filled, config, kind)))
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
    if len(shape) < 2 or name.endswith((*_KEPT_F32, ".bias")):
        return _F32
    if wanted not in (_F32, _F16, GGMLQuantizationType.BF16) and name in _TOKEN_TABLES and wanted != GGMLQuantizationType.Q6_K:
        wanted = _Q8_0
    while shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = _SMALLER_BLOCKS.get(wanted, _F16)
    return wanted


def _metadata(
    checkpoint: Checkpoint, family: Family, planned: list[_Planned], file_type: LlamaFileType
) -> tuple[dict[str, Any], str | None, list[str]]:
    """What a file says besides its architecture; the tokenizer's kind and notes."""
    from llmasos_format_gguf import vocabulary  # only models with text pay for the import of tokenizers
    from llmasos_tokenizing.fast import FastTokenizer

    rows = next((part.entries[0].shape[0] for part in planned if part.entries[0].name == "token_embd.weight"), None)
    if rows is None:
        raise CheckpointError(f"{checkpoint.path} holds no embedding; get the checkpoint again.")
    found: dict[str, Any] = {
        Keys.General.ARCHITECTURE: family.arch,
        Keys.General.TYPE: "model",
        Keys.General.NAME: _name(checkpoint),
        Keys.General.FILE_TYPE: np.uint32(file_type),
        Keys.General.QUANTIZATION_VERSION: np.uint32(_QUANTIZATION_VERSION),
        Keys.LLM.VOCAB_SIZE.format(arch=family.arch): np.uint32(rows),
    }
    if family.title:
        found[Keys.General.BASENAME] = family.title  # what readers tell it from others of its architecture by
    notes: list[str] = []
    if (header := _header(checkpoint)) is not None:
        # Who made the model and under what licence goes with it.
        about = {key: value for key, value in header.metadata.items() if key.startswith("general.") and isinstance(value, str)}
        found = about | found | vocabulary.copied(header)
    elif not checkpoint.text_files().keys() & {"tokenizer.json", "tokenizer.model"}:
        found |= vocabulary.special_ids(checkpoint.config)
        notes.append("The checkpoint has no tokenizer, and neither has the file.")
    elif not isinstance(checkpoint.tokenizer(), FastTokenizer):
        found |= vocabulary.special_ids(checkpoint.config)
        notes.append("The checkpoint's tokenizer is a program of its format, which GGUF cannot hold; the file has none.")
    else:
        found |= vocabulary.vocabulary_of(checkpoint, rows)
        if (template := checkpoint.chat_template) is not None:
            found[Keys.Tokenizer.CHAT_TEMPLATE] = template
    return found, found.get(Keys.Tokenizer.MODEL), notes


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


def _header(checkpoint: Checkpoint) -> GGUFHeader | None:
    """The header of the file that a checkpoint was read from; None where that is no GGUF file."""
    return read_parts(checkpoint.path)[0] if checkpoint.format == GGUFCheckpoint.format else None


def _name(checkpoint: Checkpoint) -> str:
    if (header := _header(checkpoint)) is not None:
        found = header.metadata.get(Keys.General.NAME)
        return found if isinstance(found, str) else checkpoint.path.stem
    return checkpoint.path.name


def _check(checkpoint: Checkpoint, partial: Path, planned: list[_Planned], family: Family, sizes: Mapping[str, Any]) -> None:
    """Read the file's header back: it must describe the model that it was written from."""
    where = str(checkpoint.path)
    with _right_kinds(where):
        found = GGUFCheckpoint(partial)
        check_same(checkpoint.config, found.config, family, sizes, where)
    for part in planned:
        for name in part.names:
            if found.shape(name) != tuple(checkpoint.shape(name)):
                raise CheckpointError(
                    f"{checkpoint.path} holds {name} in the shape {tuple(checkpoint.shape(name))}, which its config does not ask for."
                )


def _fill(checkpoint: Checkpoint, file: GGUFFile, part: _Planned, config: Mapping[str, Any], advance: Callable[[int], None]) -> None:
    offset = 0
    for name in part.names:
        try:
            tensors = part.place.layout.write(checkpoint.tensor(name), config)
            for entry, tensor in zip(part.entries, tensors, strict=True):
                data = encode(tensor, entry.kind).reshape(-1)
                file.put(entry.name, data, offset)
                advance(data.nbytes)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path} holds {name}, which cannot be written: {error}.") from error
        offset += data.nbytes


def _unseen(done: int) -> None:
    """Progress that nobody watches."""


def _window_note(checkpoint: Checkpoint, family: Family, sizes: Mapping[str, Any]) -> list[str]:
    """What llama.cpp will do otherwise of a model whose window ends within its context."""
    default = next((field.default for field in family.fields if field.name == "sliding_window"), None)
    window = checkpoint.config.get("sliding_window", default)
    if not family.unwindowed or not isinstance(window, int) or not 0 < window < sizes["max_position_embeddings"]:
        return []
    return [f"llama.cpp computes {family.model_type} without its window of {window} tokens: longer texts differ there."]


def _notes(entries: list[Entry], wanted: GGMLQuantizationType) -> list[str]:
    if wanted in (_F32, _F16, GGMLQuantizationType.BF16):
        return []
    other = [entry for entry in entries if len(entry.shape) > 1 and not entry.name.endswith(_KEPT_F32) and entry.kind != wanted]
    tables = [entry.name for entry in other if entry.name in _TOKEN_TABLES and entry.kind == _Q8_0]
    rest = [entry for entry in other if entry.name not in tables and not entry.name.endswith(".bias")]
    notes = [f"{', '.join(tables)}: Q8_0, since fewer bits cost most there."] if tables else []
    if rest:
        kinds = ", ".join(sorted({entry.kind.name for entry in rest}))
        block = GGML_QUANT_SIZES[wanted][0]
        notes.append(f"{len(rest)} matrices are {kinds}, since blocks of {block} do not divide their columns ({rest[0].name}).")
    return notes


@contextmanager
def _right_kinds(where: str) -> Iterator[None]:
    """One sentence for a value of a config that is of a type that no config has."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(
            f"{where} holds a value of the wrong kind in its config ({str(error)[:80]}); get the checkpoint again."
        ) from error


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A path to write at, which becomes ``output`` at the end, or nothing."""
    partial = output.parent / f".{output.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(output)
        flush(output.parent)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written ({error.strerror or error}); nothing of it was kept.") from error
    finally:
        partial.unlink(missing_ok=True)
