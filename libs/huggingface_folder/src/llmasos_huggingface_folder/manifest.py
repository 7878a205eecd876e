"""The manifest ``llmasos.json``: the origin of a checkpoint, and the digests of its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_checkpoint_kit.digests import digest_by, file_digest
from llmasos_checkpoint_kit.folder import inside, read_json
from llmasos_checkpoint_kit.writing import write_json
from llmasos_hookspecs import CheckpointError

NAME: Final = "llmasos.json"
FORMAT: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class FileRecord:
    """A file as it was written."""

    sha256: str
    size: int


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a folder; empty where there is none.

    Raises:
        CheckpointError: it is no manifest of this format, or names a file outside the folder.
    """
    path = inside(folder, NAME)
    if not path.is_file():
        return {}
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {str(manifest.get('format'))[:20]!r}, and {FORMAT} is read; update llmasos.")
    if not isinstance(manifest.get("stages"), list) or not all(isinstance(stage, dict) for stage in manifest["stages"]):
        raise CheckpointError(f"{path} has no list of stages; write the checkpoint again.")
    if not isinstance(manifest.get("base"), str):
        raise CheckpointError(f"{path} does not say what it was made of (base); write the checkpoint again.")
    file_records(folder, manifest)
    return manifest


def file_records(folder: Path, manifest: Mapping[str, Any]) -> dict[str, FileRecord]:
    """File name -> record, of a manifest."""
    files = manifest.get("files", {})
    if not isinstance(files, dict):
        raise CheckpointError(f"{folder / NAME} has no table of files; write the checkpoint again.")
    records = {}
    for name, record in files.items():
        inside(folder, name)
        digest, size = (record.get("sha256"), record.get("size")) if isinstance(record, dict) else (None, None)
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or type(size) is not int or size < 0:
            raise CheckpointError(f"{folder / NAME} has no SHA-256 and size for {name[:80]!r}; write the checkpoint again.")
        records[name] = FileRecord(digest, size)
    return records


def verify_sizes(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Check that every file is there and whole, without reading one.

    Raises:
        CheckpointError: a file is missing or has another size.
    """
    for name, record in records.items():
        path = inside(folder, name)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, though {NAME} lists it; get the checkpoint again.")
        if (size := path.stat().st_size) != record.size:
            raise CheckpointError(f"{path} has {size} bytes, and {NAME} says {record.size}; get the checkpoint again.")


def verify_digest(folder: Path, name: str, record: FileRecord, digest_of: Callable[[Path], str] = file_digest) -> None:
    """Check the content of one file; ``digest_of`` gives a file's SHA-256, and may remember it.

    Raises:
        CheckpointError: it is not what was written.
    """
    path = inside(folder, name)
    if (found := digest_by(digest_of, path)) != record.sha256:
        raise CheckpointError(f"{path} has SHA-256 {found[:12]}..., and {NAME} says {record.sha256[:12]}...; get the checkpoint again.")


def write_manifest(
    folder: Path,
    *,
    base: str,
    stages: Iterable[Mapping[str, Any]],
    files: Iterable[str],
    digest_of: Callable[[Path], str] = file_digest,
) -> None:
    """Write the manifest of a folder whose ``files`` are complete. Stages are plain data, the oldest first."""
    manifest = {
        "format": FORMAT,
        "base": base,
        "stages": list(stages),
        "files": {name: {"sha256": digest_by(digest_of, folder / name), "size": (folder / name).stat().st_size} for name in sorted(files)},
    }
    write_json(folder / NAME, manifest)
