"""Export for programs: what ``llmasos models export`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
