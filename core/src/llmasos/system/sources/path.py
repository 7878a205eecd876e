"""The source of models that are on this machine already: a folder, a file, or an archive of either."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from llmasos_fetch_kit.archives import is_archive, unpack
from llmasos_fetch_kit.layout import model_in
from llmasos_hookspecs import WORKING, Component, Context, SourceError, hookimpl
from llmasos_model_store.store import sha256_of

_LOOKS_LIKE_A_PATH: Final = re.compile(r"[./~]|[A-Za-z]:[\\/]")


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="A folder, a GGUF file, or an archive of one, on this machine.",
        schemes=("file",),
        examples=("llmasos run 'Hello' --model ./my-model", "llmasos run 'Hello' --model file:model.tar.gz"),
    )


@hookimpl
def llmasos_fetch(ref: str, context: Context) -> Path | None:
    named, path = _read(ref)
    try:
        if path.is_dir():
            return model_in(path.absolute())
        if path.is_file():
            return _unpacked(path.absolute(), context) if is_archive(path) else path.absolute()
    except PermissionError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    except (OSError, ValueError) as error:
        if not named:
            return None
        raise SourceError(f"{path} cannot be read: {error}.") from error
    if named:
        raise SourceError(f"There is no file or folder {path} (seen from {Path.cwd()}).")
    return None


def _read(ref: str) -> tuple[bool, Path]:
    """The path that a reference means, and whether it can mean nothing else."""
    if ref.startswith("file:"):
        text = ref.removeprefix("file:")
        return True, Path(unquote(text.removeprefix("//"))) if text.startswith("//") else Path(text).expanduser()
    named = bool(_LOOKS_LIKE_A_PATH.match(ref)) or ref.lower().endswith((".gguf", ".safetensors", ".onnx")) or is_archive(Path(ref))
    return named or ref.endswith(os.sep), Path(ref).expanduser()


def _unpacked(archive: Path, context: Context) -> Path:
    # The content is the key: an archive that changed is another model.
    digest = sha256_of(archive)

    def fill(folder: Path) -> tuple[str, str]:
        work = folder / f"{WORKING}-unpacked"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            with context.progress(f"Unpacking {archive.name}", None, "B") as progress:
                found = unpack(archive, work, advance=progress.advance)
        except SourceError:
            shutil.rmtree(work, ignore_errors=True)  # what is refused leaves nothing
            raise
        if not found:
            work.rmdir()
            raise SourceError(f"The archive {archive} holds no file.")
        for child in work.iterdir():
            child.rename(folder / child.name)
        return f"file:{archive}", ""

    return model_in(context.store.fetch(f"file:{archive.name}#sha256={digest}", fill))
