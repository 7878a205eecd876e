"""Writing a checkpoint as one GGUF file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import attrs
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, Keys, LlamaFileType

from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_format_gguf.contents import KEPT_F32, TOKEN_TABLES, Content, Planned, content_of, right_kinds
from llmasos_format_gguf.file import Entry, GGUFFile
from llmasos_format_gguf.header import GGUFHeader
from llmasos_format_gguf.quantize import encode
from llmasos_format_gguf.split import read_parts
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, CheckpointError, Progress, RequestError, UnsupportedModel
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


def write_gguf(
    checkpoint: Checkpoint,
    output: Path,
    kind: str,
    *,
    force: bool = False,
    progress: Callable[[int], AbstractContextManager[Progress]] | None = None,
) -> GGUFExport:
    """Write ``checkpoint`` as the GGUF file ``output``, its matrices in the type that ``kind`` names.

    Stored codes are kept where the type holds them; norms, biases and routers are float32; a token table in a type of fewer than 8 bits
    is Q8_0. The file is written beside ``output`` and renamed. ``progress`` shows the bytes that are written, of
    the total that it is given.

    Raises:
        RequestError: ``output`` exists and ``force`` is not set, or the type is unknown.
        UnsupportedModel: the architecture, or something in its config or tokenizer, has no form in GGUF.
        CheckpointError: the checkpoint is damaged, or the file cannot be written.
    """
    check_request(output, kind, force)
    chosen, file_type = _type(kind)
    if checkpoint.format not in NEUTRAL_FORMATS:
        raise UnsupportedModel(f"{checkpoint.path} is a {checkpoint.format} export, from which no GGUF can be written.")
    content = content_of(checkpoint, chosen)
    metadata, tokenizer, notes = _metadata(checkpoint, content, file_type)
    metadata |= content.metadata
    entries = [
        *(Entry(name, _F32, array.shape) for name, array in content.extra.items()),
        *(entry for part in content.planned for entry in part.entries),
    ]
    total = sum(entry.nbytes for part in content.planned for entry in part.entries)
    display: AbstractContextManager[Progress | None] = nullcontext() if progress is None else progress(total)
    with display as shown, _appearing(output) as partial, GGUFFile(partial, metadata, entries) as file:
        for name, array in content.extra.items():
            file.put(name, array.view(np.uint8))
        file.flush()
        _check(checkpoint, partial, content)
        for part in content.planned:
            _fill(checkpoint, file, part, content.layouts, shown)
        size = file.size
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.kind.name] = counts.get(entry.kind.name, 0) + 1
    notes += [*content.notes, *_notes(entries, chosen)]
    return GGUFExport(path=output, size=size, type=kind, architecture=content.arch, tensors=counts, tokenizer=tokenizer, notes=tuple(notes))


def check_request(output: Path, kind: str, force: bool) -> None:
    """Raise ``RequestError`` for what ``write_gguf`` will refuse without looking at the model."""
    _type(kind)
    if output.is_dir():
        raise RequestError(f"{output} is a folder; name the file to write, such as {output / 'model.gguf'}.")
    if os.path.lexists(output) and not force:
        raise RequestError(f"{output} exists already; name another file, or give --force (force=True) to replace it.")


def _type(kind: str) -> tuple[GGMLQuantizationType, LlamaFileType]:
    try:
        return TYPES[kind.lower()]
    except KeyError:
        raise RequestError(f"There is no GGUF type {kind[:40]!r} to write; those that are: {', '.join(TYPES)}.") from None


def _metadata(checkpoint: Checkpoint, content: Content, file_type: LlamaFileType) -> tuple[dict[str, Any], str | None, list[str]]:
    """What a file says besides its architecture; the tokenizer's kind and notes."""
    from llmasos_format_gguf import vocabulary  # only models with text pay for the import of tokenizers
    from llmasos_tokenizing.fast import FastTokenizer

    rows = next((part.entries[0].shape[0] for part in content.planned if part.entries[0].name == "token_embd.weight"), None)
    if rows is None:
        raise CheckpointError(f"{checkpoint.path} holds no embedding; get the checkpoint again.")
    found: dict[str, Any] = {
        Keys.General.ARCHITECTURE: content.arch,
        Keys.General.TYPE: "model",
        Keys.General.NAME: _name(checkpoint),
        Keys.General.FILE_TYPE: np.uint32(file_type),
        Keys.General.QUANTIZATION_VERSION: np.uint32(_QUANTIZATION_VERSION),
        Keys.LLM.VOCAB_SIZE.format(arch=content.arch): np.uint32(rows),
    }
    if content.title:
        found[Keys.General.BASENAME] = content.title  # what readers tell it from others of its architecture by
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


def _header(checkpoint: Checkpoint) -> GGUFHeader | None:
    """The header of the file that a checkpoint was read from; None where that is no GGUF file."""
    return read_parts(checkpoint.path)[0] if checkpoint.format == GGUFCheckpoint.format else None


def _name(checkpoint: Checkpoint) -> str:
    if (header := _header(checkpoint)) is not None:
        found = header.metadata.get(Keys.General.NAME)
        return found if isinstance(found, str) else checkpoint.path.stem
    return checkpoint.path.name


def _check(checkpoint: Checkpoint, partial: Path, content: Content) -> None:
    """Read the file's header back: it must describe the model that it was written from."""
    where = str(checkpoint.path)
    with right_kinds(where):
        found = GGUFCheckpoint(partial)
        content.check(found.config)
    for part in content.planned:
        for name in part.names:
            if found.shape(name) != tuple(checkpoint.shape(name)):
                raise CheckpointError(
                    f"{checkpoint.path} holds {name} in the shape {tuple(checkpoint.shape(name))}, which its config does not ask for."
                )


def _fill(checkpoint: Checkpoint, file: GGUFFile, part: Planned, config: Mapping[str, Any], shown: Progress | None) -> None:
    offset = 0
    for name in part.names:
        try:
            tensors = part.layout.write(checkpoint.tensor(name), config)
            for entry, tensor in zip(part.entries, tensors, strict=True):
                data = encode(tensor, entry.kind).reshape(-1)
                file.put(entry.name, data, offset)
                if shown is not None:
                    shown.advance(data.nbytes)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path} holds {name}, which cannot be written: {error}.") from error
        offset += data.nbytes


def _notes(entries: list[Entry], wanted: GGMLQuantizationType) -> list[str]:
    if wanted in (_F32, _F16, GGMLQuantizationType.BF16):
        return []
    other = [entry for entry in entries if len(entry.shape) > 1 and not entry.name.endswith(KEPT_F32) and entry.kind != wanted]
    tables = [entry.name for entry in other if entry.name in TOKEN_TABLES and entry.kind == _Q8_0]
    rest = [entry for entry in other if entry.name not in tables and not entry.name.endswith(".bias")]
    notes = [f"{', '.join(tables)}: Q8_0, since fewer bits cost most there."] if tables else []
    if rest:
        kinds = ", ".join(sorted({entry.kind.name for entry in rest}))
        block = GGML_QUANT_SIZES[wanted][0]
        notes.append(f"{len(rest)} matrices are {kinds}, since blocks of {block} do not divide their columns ({rest[0].name}).")
    return notes


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
