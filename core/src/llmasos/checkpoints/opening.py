"""Opens the checkpoint at a path, in the formats that core reads itself."""

from __future__ import annotations

from pathlib import Path

from llmasos.checkpoints.foreign import ForeignCheckpoint, foreign_format
from llmasos_hookspecs import Checkpoint, CheckpointError


def open_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open the checkpoint at ``path``: a Hugging Face folder or an export. ``llmasos.compose.formats`` asks the installed formats too.

    Only headers and small files are read. ``allow_pickle`` lets a folder of ``pytorch_model.bin`` through, read by torch with
    ``weights_only=True``.

    Raises:
        CheckpointError: nothing is there, nothing there is a checkpoint, or what is there is damaged or unsafe.
        UnsupportedModel: it is a checkpoint of an architecture or a quantisation that is not read.
    """
    path = Path(path)
    found = read_checkpoint(path) or read_pickled(path, allow_pickle)
    if found is None:
        raise unknown(path)
    return found


def read_pickled(path: Path, allow_pickle: bool) -> Checkpoint | None:
    """The checkpoint in a folder's pickle files, which are the last that is looked for; None where it has none.

    Raises:
        CheckpointError: it has, and ``allow_pickle`` is not set.
    """
    if not path.is_dir() or not any(path.glob("pytorch_model*.bin")):
        return None
    if not allow_pickle:
        raise CheckpointError(
            f"{path} holds its weights as pickle files, which can run code when read; get the model as safetensors, "
            "or set allow_pickle = true if you trust it."
        )
    from llmasos.checkpoints.pickled import PickledCheckpoint

    return PickledCheckpoint(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``; None for a file or folder that core does not know, or whose weights are pickle files.

    Raises:
        CheckpointError: nothing is there, or what is there is damaged or unsafe.
        UnsupportedModel: it is a checkpoint of an architecture or a quantisation that is not read.
    """
    try:
        if path.exists():
            return _read(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error
    raise CheckpointError(f"{path} does not exist; check the path.")


def unknown(path: Path) -> CheckpointError:
    """Why what is at ``path`` is no checkpoint."""
    from llmasos.checkpoints.huggingface import INDEX, WEIGHTS

    if path.suffix == ".safetensors":
        return CheckpointError(f"{path} holds weights without a config; name the folder that holds it and config.json.")
    if path.is_file():
        return CheckpointError(f"{path} is no model file that is known; give a GGUF file, or a folder with config.json and safetensors.")
    missing = f"{WEIGHTS} or {INDEX}" if (path / "config.json").is_file() else "config.json, GGUF file or export"
    return CheckpointError(f"{path} is no model folder: it holds no {missing}; check the path or get the model again.")


def storage_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a user should know of how a checkpoint's weights are stored, one sentence each."""
    from llmasos.checkpoints.huggingface import HuggingFaceCheckpoint

    return checkpoint.notes if isinstance(checkpoint, HuggingFaceCheckpoint) else ()


def _read(path: Path) -> Checkpoint | None:
    from llmasos.checkpoints.huggingface import INDEX, WEIGHTS, HuggingFaceCheckpoint

    if (path / "config.json").is_file() and ((path / WEIGHTS).is_file() or (path / INDEX).is_file()):
        return HuggingFaceCheckpoint(path)
    if (form := foreign_format(path)) is not None:
        return ForeignCheckpoint(path, form)
    return None
