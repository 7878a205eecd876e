"""Checks a ``.pt2`` archive for anything that torch.export would run as code; without torch.

``torch.export.load`` is not safe by itself: it unpickles some records, resolves the graph's operators by attribute access on the torch
module, and passes symbolic sizes to sympy, which evaluates them. This module reads all of these first. It passes an archive on to torch
only if every pickle makes tensors alone (``pickles``), all operators are on the allow list (``operators``) and all sizes are plain
arithmetic (``sizes``). Guards, which are Python code, are never run.

``inspect`` runs in a process of its own when an archive is first seen: only one that passes there is read in the process that uses it.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_backend_torch.exported.operators import OPERATORS
from llmasos_backend_torch.exported.pickles import makes_tensors_only
from llmasos_backend_torch.exported.sizes import is_size
from llmasos_hookspecs import CheckpointError

_RECORDS: Final = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/\w+|version|extra/.*"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+))"
)
#: Prefixes of targets that torch resolves to Python objects.
_RESOLVED: Final = ("torch", "_operator", "math", "#")
#: The largest program whose graph is read: one of 100 layers has some 30 MB.
_MOST_GRAPH_BYTES: Final = 128 << 20
#: Elements of the largest tensor that a constant size may ask for.
_MOST_ELEMENTS: Final = 1 << 31


#: What zipfile, json and the walk below say of damaged input; NotImplementedError and RecursionError are RuntimeErrors.
_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ArithmeticError,
    ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip


def inspect(path: str) -> None:
    """``check_archive`` for a process of its own."""
    check_archive(Path(path))


def check_archive(path: Path) -> tuple[str, ...]:
    """Raise ``CheckpointError`` if the file is not an archive, is truncated, or contains anything that could run code.

    Returns:
        The stored names of its pickles.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = _inner_names(archive, path)
            pickles = [name for name in names if name.endswith(".pt")]
            for name, stored in names.items():
                if name.endswith("_config.json"):
                    pickles += _pickled(json.loads(archive.read(stored)), names, path, name)
                elif name == "models/model.json":
                    if archive.getinfo(stored).file_size > _MOST_GRAPH_BYTES:
                        raise CheckpointError(f"{path} holds a graph larger than any decoder's; do not use it.")
                    _check_graph(json.loads(archive.read(stored)), path)
            for name in pickles:
                if not makes_tensors_only(archive.read(names[name])):
                    raise CheckpointError(
                        f"{path} holds a pickle ({name}) of more than tensors, which could run code when read; it was not run."
                    )
            return tuple(names[name] for name in pickles)
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is no torch.export archive, or a damaged one; export it again.") from error


def _inner_names(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Name inside the archive's one folder -> stored name."""
    names = {}
    for entry in archive.infolist():
        inner = entry.filename.partition("/")[2]
        if not _RECORDS.fullmatch(inner):
            raise CheckpointError(f"{path} holds {entry.filename[:80]!r}, which a plain exported program does not need and might run code.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path} holds {entry.filename[:80]!r} compressed, which torch.export never writes; export it again.")
        names[inner] = entry.filename
    if "models/model.json" not in names:
        raise CheckpointError(f"{path} holds no exported program; export it again.")
    return names


def _pickled(config: Any, names: dict[str, str], path: Path, name: str) -> Iterator[str]:
    """The records that a table of weights or constants names and that are pickles; every record that it names is there."""
    folder = name.rpartition("/")[0]
    for entry in config["config"].values():
        record = f"{folder}/{entry['path_name']}"
        if record not in names:
            raise CheckpointError(f"{path} lacks the record {record[:80]!r}; export it again.")
        if entry["use_pickle"]:
            yield record


def _check_graph(graph: Any, path: Path) -> None:
    for key, value in _strings(graph):
        if key == "target" and value.startswith(_RESOLVED) and value not in OPERATORS:
            raise CheckpointError(f"{path} calls {value[:80]!r}, which is no operator of a decoder and might run code.")
        if key == "expr_str" and not is_size(value):
            raise CheckpointError(f"{path} has the size {value[:80]!r}, which is no arithmetic and might run code.")
    for name in graph.get("range_constraints", ()):
        if not is_size(name):
            raise CheckpointError(f"{path} bounds {name[:80]!r}, which is no symbol and might run code.")
    for sizes in _size_lists(graph):
        if math.prod(sizes) > _MOST_ELEMENTS:
            raise CheckpointError(f"{path} makes a tensor of {math.prod(sizes):,} elements, more than any decoder needs; do not use it.")


def _size_lists(node: Any) -> Iterator[list[int]]:
    """The constant part of every list of sizes; dynamic axes count as 1."""
    if isinstance(node, dict):
        if isinstance(plain := node.get("as_ints"), list):
            yield [size for size in plain if isinstance(size, int) and size > 0]
        if isinstance(mixed := node.get("as_sym_ints"), list):
            yield [size for each in mixed if isinstance(each, dict) and isinstance(size := each.get("as_int"), int) and size > 0]
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _size_lists(value)


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document with its key."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
