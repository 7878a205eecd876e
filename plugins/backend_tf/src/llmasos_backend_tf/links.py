"""Checks that the files of a model are inside its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmasos_hookspecs import CheckpointError


def check_links(folder: Path, files: Iterable[Path]) -> None:
    """Check that no file is outside the folder, except links of a Hugging Face cache (``snapshots/<revision>/x -> ../../blobs/y``).

    Raises:
        CheckpointError: a link leads outside, or cannot be followed.
    """
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    for file in files:
        try:
            real = file.resolve()
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{file} cannot be followed ({error}); get the model again.") from error
        if not real.is_relative_to(root) and not (blobs is not None and real.is_relative_to(blobs)):
            raise CheckpointError(f"{file} is a link that leads outside its folder; copy the file in its place if you trust it.")
