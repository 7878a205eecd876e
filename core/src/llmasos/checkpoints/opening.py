"""Opens the checkpoint at a path, in the formats that core reads itself."""

from __future__ import annotations

from pathlib import Path

from llmasos.checkpoints.foreign import ForeignCheckpoint, foreign_format
from llmasos_checkpoint_kit.reading import ReadingContext
from llmasos_hookspecs import Checkpoint, CheckpointError


def read_checkpoint(path: Path, context: ReadingContext) -> Checkpoint | None:
    """The checkpoint at ``path``: a Hugging Face folder or an export; None for a file or folder that core does not know.

    Only headers and small files are read. ``context`` gives digests and tokenizers as long as the checkpoint is used.

    Raises:
        CheckpointError: nothing is there, or what is there is damaged or unsafe.
        UnreadQuantization: it is a Hugging Face folder whose weights are quantised in a way that core does not read.
        UnsupportedModel: it is a checkpoint of an architecture that is not read.
    """
    try:
        if path.exists():
            return _read(path, context)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error
    raise CheckpointError(f"{path} does not exist; check the path.")


def unknown(path: Path) -> CheckpointError:
    """Why what is at ``path`` is no checkpoint."""
    from llmasos_huggingface_folder.checkpoint import INDEX, WEIGHTS

    if path.suffix == ".safetensors":
        return CheckpointError(f"{path} holds weights without a config; name the folder that holds it and config.json.")
    if path.is_file():
        return CheckpointError(f"{path} is no model file that is known; give a GGUF file, or a folder with config.json and safetensors.")
    missing = f"{WEIGHTS} or {INDEX}" if (path / "config.json").is_file() else "config.json, GGUF file or export"
    return CheckpointError(f"{path} is no model folder: it holds no {missing}; check the path or get the model again.")


def storage_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a user should know of how a checkpoint's weights are stored, one sentence each."""
    return tuple(getattr(checkpoint, "notes", ()))


def _read(path: Path, context: ReadingContext) -> Checkpoint | None:
    from llmasos_huggingface_folder.checkpoint import HuggingFaceCheckpoint, has_safetensors

    if has_safetensors(path):
        return HuggingFaceCheckpoint(path, context)
    if (form := foreign_format(path)) is not None:
        return ForeignCheckpoint(path, form, context)
    return None
