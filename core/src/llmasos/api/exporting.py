"""Export for programs: what ``llmasos models export`` does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs

from llmasos_hookspecs import CheckpointError, PluginError, RequestError, is_sealed
from llmasos_hookspecs.atomic import flush

if TYPE_CHECKING:
    from llmasos.system.context import ProgressSink


@attrs.frozen(kw_only=True)
class ExportedModel:
    """What an installed format wrote: where, how many bytes, and what it says of it."""

    path: Path
    size: int
    format: str
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


def export(
    source: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    allow_pickle: bool = False,
    offline: bool = False,
    progress: ProgressSink | None = None,
    **formats: str | Mapping[str, Any],
) -> ExportedModel:
    """Write a model in an installed format, tokenizer and chat template included. The file or folder appears whole or not at all.

    ``export("smollm2", "smollm2.gguf", gguf="q4_k")`` names the format and says how it writes. Without one a GGUF file is written, whose
    matrices have 8 bits, for llama.cpp and what is built on it.

    Args:
        source: the model, as for ``load_model``.
        output: the file or folder to write.
        force: replace what exists.
        formats: the name of one format, with the options of its export; a text is the value of the first one.

    Raises:
        RequestError: the output exists, the format does not export, or several are named.
        PluginError: the format is not installed, or fails.
        ConfigError: it refuses the options.
        UnsupportedModel: it cannot hold the model.
        CheckpointError: the model is damaged, or the output cannot be written.
    """
    from llmasos_config.catalog import default_component

    if len(formats) > 1:
        raise RequestError(f"One format is written at a time, and {' and '.join(sorted(formats))} are named.")
    ((format_name, options),) = formats.items() or {default_component("format"): {}}.items()
    return export_as(source, output, format_name, options, force=force, allow_pickle=allow_pickle, offline=offline, progress=progress)


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
    from llmasos.system.sources import resolve
    from llmasos_options import structure_options
    from llmasos_options.fields import fields_of

    sink, output = progress or SilentSink(), Path(output)
    if os.path.lexists(output) and not force:
        raise RequestError(f"{output} exists already; name another output, or give --force (force=True) to replace it.")
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
    if is_sealed(checkpoint):
        raise RequestError(f"{found.path} is sealed, and an export would lie in the clear on the disk; unseal the model where that may be.")
    partial = output.parent / f".{output.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        # Under its own name: formats go by suffixes.
        written = partial / output.name
        result = known.calls.call(loaded, "llmasos_export", checkpoint=checkpoint, output=written, options=chosen)
        if not written.exists():
            raise PluginError(f"The {loaded.entry.label} wrote nothing to its output; this is a fault of the plugin.")
        if output.is_dir():
            if written.is_file():
                raise RequestError(f"{output} is a folder; name the file to write, such as {output / f'model.{format}'}.")
            shutil.rmtree(output)
        written.replace(output)
        flush(output.parent)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written ({error.strerror or error}); nothing of it was kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = [output] if output.is_file() else [file for file in output.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return ExportedModel(path=output, size=size, format=format, facts=result.facts, notes=result.notes)
