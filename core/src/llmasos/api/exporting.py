"""Export for programs: what ``llmasos models export`` does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs

from llmasos_hookspecs import CheckpointError, PluginError, RequestError

if TYPE_CHECKING:
    from llmasos.checkpoints.gguf_write import GGUFExport
    from llmasos.system.context import ProgressSink


def export(
    source: str | Path,
    output: str | Path,
    *,
    gguf: str = "q8_0",
    force: bool = False,
    allow_pickle: bool = False,
    offline: bool = False,
    progress: ProgressSink | None = None,
) -> GGUFExport:
    """Write a model as one GGUF file, tokenizer and chat template included, for llama.cpp and what is built on it.

    Codes that are stored already are kept where the type holds them. The file appears whole or not at all.

    Args:
        source: the model, as for ``load_model``.
        output: the file to write.
        gguf: the type of the matrices: f32, f16, bf16, q8_0, q6_k, q5_0, q5_1, q4_0, q4_1 or q4_k.
        force: replace a file that exists.

    Raises:
        RequestError: the output exists, or the type is unknown.
        UnsupportedModel: the architecture, or something in its config or tokenizer, has no form in GGUF.
        CheckpointError: the model is damaged, or the file cannot be written.
    """
    from llmasos.checkpoints.gguf_write import check_request, export_size, write_gguf
    from llmasos.compose.formats import open_model
    from llmasos.system.context import SilentSink
    from llmasos.system.sources import resolve

    sink = progress or SilentSink()
    check_request(Path(output), gguf, force)  # before anything is fetched
    found = resolve(str(source), offline=offline, allow_pickle=allow_pickle, sink=sink)
    for warning in found.warnings:
        sink.note(warning)
    checkpoint = open_model(found.path, allow_pickle=allow_pickle)
    with sink.progress(f"Writing {Path(output).name}", export_size(checkpoint, gguf), "B") as shown:
        return write_gguf(checkpoint, Path(output), gguf, force=force, advance=shown.advance)


@attrs.frozen(kw_only=True)
class ExportedModel:
    """What an installed format wrote: where, how many bytes, and what it says of it."""

    path: Path
    size: int
    format: str
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


def export_as(
    source: str | Path,
    output: str | Path,
    format: str,  # noqa: A002 - what it is called everywhere
    options: str | Mapping[str, Any],
    *,
    force: bool = False,
    allow_pickle: bool = False,
    offline: bool = False,
    progress: ProgressSink | None = None,
) -> ExportedModel:
    """Write a model in an installed format. The file or folder appears whole or not at all.

    Args:
        source: the model, as for ``load_model``.
        output: the file or folder to write.
        format: the format's name.
        options: of its export; a text is the value of the first one.
        force: replace a file or folder that exists.

    Raises:
        RequestError: the output exists, or the format does not export.
        PluginError: the format is not installed, or fails.
        ConfigError: it refuses the options.
        UnsupportedModel: it cannot hold the model.
        CheckpointError: the model is damaged, or the output cannot be written.
    """
    from llmasos.compose.formats import formats
    from llmasos.system.context import SilentSink
    from llmasos.system.options import structure_options
    from llmasos.system.options.fields import fields_of
    from llmasos.system.sources import resolve

    sink, output = progress or SilentSink(), Path(output)
    if output.exists() and not force:
        raise RequestError(f"{output} exists already; name another output, or replace it with force.")
    known = formats(allow_pickle=allow_pickle, offline=offline, sink=sink)
    loaded = known.find(format)
    if loaded.component.exports is None:
        raise RequestError(f"The {loaded.entry.label} reads models and does not write them; use another format.")
    if isinstance(options, str):
        options = {fields_of(loaded.component.exports)[0].key: options}
    chosen: Any = structure_options(loaded.component.exports, options, f"--{format}")
    found = resolve(str(source), offline=offline, allow_pickle=allow_pickle, sink=sink)
    for warning in found.warnings:
        sink.note(warning)
    checkpoint = known.open(found.path)
    partial = output.parent / f".{output.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        # Under its own name: formats go by suffixes.
        written = partial / output.name
        result = known.access.call(loaded, "llmasos_export", checkpoint=checkpoint, output=written, options=chosen)
        if not written.exists():
            raise PluginError(f"The {loaded.entry.label} wrote nothing to its output; this is a fault of the plugin.")
        if output.is_dir():
            shutil.rmtree(output)
        written.replace(output)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written ({error.strerror or error}); nothing of it was kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = [output] if output.is_file() else [file for file in output.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return ExportedModel(path=output, size=size, format=format, facts=result.facts, notes=result.notes)
