"""Reads files of a checkpoint folder: only files inside it, and only up to a size limit."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_hookspecs import CheckpointError

#: The largest JSON file that is parsed into Python objects. config.json is a few KB, an index of 100,000 tensors 8 MB.
MAX_JSON_BYTES: Final = 16 << 20

#: How many values one parsed file may hold: it bounds the memory of the parsed form, which a file of ``{},{},...`` would
#: otherwise blow up to thirty times its size.
MAX_JSON_VALUES: Final = 500_000

#: How transformers writes floats into JSON that it has no word for.
_FLOAT_TAG: Final = "__float__"
_SPECIAL_FLOATS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def inside(folder: Path, name: object) -> Path:
    """The file called ``name`` in ``folder``.

    Raises:
        CheckpointError: the name is no plain relative one, or the file lies outside the folder. The one link outward that is
            followed is that of a Hugging Face cache, ``snapshots/<revision>/x -> ../../blobs/<digest>``.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        raise CheckpointError(f"{folder} names a file {_shown(name)}, which is no plain file name; do not use this checkpoint.")
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or ":" in parts[0]:
        raise CheckpointError(f"{folder} names the file {_shown(name)}, which leads outside its folder; do not use this checkpoint.")
    path = folder / name
    try:
        if len(parts) == 1 and not _is_link(path):
            return path  # nor is a folder on the way that could be one; to resolve two paths takes far longer
        real, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: half a character, which no file system takes
        raise CheckpointError(f"{folder} names the file {_shown(name)}, which cannot be followed; get the checkpoint again.") from error
    if not real.is_relative_to(root) and not (root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")):
        raise CheckpointError(f"{path} is a link that leads outside its folder; copy the file in its place if you trust it.")
    return path


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON from an untrusted file. ``where`` begins the error message.

    Raises:
        CheckpointError: it is not JSON, or larger or deeper than any real file.
    """
    if len(data) > MAX_JSON_BYTES or data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_JSON_VALUES:
        raise CheckpointError(f"{where} is larger than any real checkpoint's; get the checkpoint again.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON; get the checkpoint again.") from error


def read_small(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """All bytes of a file of at most ``limit`` bytes.

    Raises:
        CheckpointError: the file cannot be read, or is larger.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path} has {size} bytes, and at most {limit} are read of such a file; get the checkpoint again.")
        with path.open("rb") as file:
            return file.read(size)  # not `limit`, which would be allocated before a byte is read
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: the file is unreadable, too large, no JSON, or no object.
    """
    value = parse_json(read_small(path), str(path))
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object; get the checkpoint again.")
    return value


def read_config(path: Path) -> Mapping[str, Any]:
    """``read_json`` of a config.json. transformers writes floats that JSON lacks as ``{"__float__": "Infinity"}``: here they are floats.

    Raises:
        CheckpointError: see ``read_json``.
    """
    try:
        found: Mapping[str, Any] = _with_special_floats(read_json(path))
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested deeper than any real checkpoint's; get the checkpoint again.") from error
    return found


def tag_special_floats(value: Any) -> Any:
    """The inverse of what ``read_config`` does: infinities and NaN as transformers writes them into a config.json."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_TAG: next(tag for tag, found in _SPECIAL_FLOATS.items() if str(found) == str(value))}
    if isinstance(value, Mapping):
        return {key: tag_special_floats(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [tag_special_floats(part) for part in value]
    return value


def _with_special_floats(value: Any) -> Any:
    if isinstance(value, dict):
        tag = value.get(_FLOAT_TAG) if len(value) == 1 else None
        if isinstance(tag, str) and tag in _SPECIAL_FLOATS:
            return _SPECIAL_FLOATS[tag]
        return {key: _with_special_floats(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_special_floats(part) for part in value]
    return value


def read_json_if_there(folder: Path, name: str) -> Mapping[str, Any]:
    """``read_json`` of a file of ``folder``; empty where there is none."""
    path = inside(folder, name)
    return read_json(path) if path.is_file() else {}


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
