"""What may stand in a ``.pt2`` archive: nothing that torch.export would run as code.

``torch.export.load`` is not safe by itself: it unpickles some records, resolves the graph's operators by attribute access from the torch
module on, and hands symbolic sizes to sympy, which evaluates them. So each of these is read here first, and only an archive whose every
pickle loads with ``weights_only=True``, and whose operators and sizes are plain, goes on to torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from llmasos_hookspecs import CheckpointError

_RECORDS: Final = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/\w+|version|extra/.*"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+))"
)
_OPERATOR: Final = re.compile(
    r"torch\.ops\.aten\.(?!__)\w+\.(?!_)\w+|torch\.ops\.aten\.__i?(and|or|xor|lshift|rshift)__\.(?!_)\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)|torch\.sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)|math\.(ceil|floor|trunc|sqrt|pow)"
)
#: How targets begin that torch resolves to Python objects.
_RESOLVED: Final = ("torch", "_operator", "math", "#")
_SIZE_WORDS: Final = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|ToFloat|IntTrueDiv"
    r"|Eq|Ne|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not|positive|nonnegative|integer|precision"
    r"|True|False|int_oo|[suz]u?f?\d+"
)


def check_archive(path: Path) -> None:
    """Raises ``CheckpointError`` where the archive is none, is truncated, or holds what could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = _inner_names(archive, path)
            for name, stored in names.items():
                if name.endswith(".pt"):
                    _check_pickle(archive.read(stored), path, name)
                elif name.endswith("_config.json"):
                    _check_config(json.loads(archive.read(stored)), archive, names, path, name)
                elif name == "models/model.json":
                    _check_graph(json.loads(archive.read(stored)), path)
    except (zipfile.BadZipFile, EOFError, ValueError, RecursionError) as error:
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


def _check_pickle(data: bytes, path: Path, name: str) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # what a pickle raises is its author's choice
        raise CheckpointError(
            f"{path} holds a pickle ({name}) of more than tensors, which could run code when read; it was not run."
        ) from error


def _check_config(config: Any, archive: zipfile.ZipFile, names: dict[str, str], path: Path, name: str) -> None:
    folder = name.rpartition("/")[0]
    for entry in config["config"].values():
        record = f"{folder}/{entry['path_name']}"
        if record not in names:
            raise CheckpointError(f"{path} lacks the record {record[:80]!r}; export it again.")
        if entry["use_pickle"]:
            _check_pickle(archive.read(names[record]), path, record)


def _check_graph(graph: Any, path: Path) -> None:
    for key, value in _strings(graph):
        if key == "target" and value.startswith(_RESOLVED) and not _OPERATOR.fullmatch(value):
            raise CheckpointError(f"{path} calls {value[:80]!r}, which is no operator of a decoder and might run code.")
        if key == "expr_str" and not _is_size(value):
            raise CheckpointError(f"{path} has the size {value[:80]!r}, which is no arithmetic and might run code.")
    for name in graph.get("range_constraints", ()):
        if not _is_size(name):
            raise CheckpointError(f"{path} bounds {name[:80]!r}, which is no symbol and might run code.")
    if graph.get("guards_code"):
        raise CheckpointError(f"{path} carries guards as code, which is not run; export it without them.")


def _is_size(expression: str) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", expression)
    return all(_SIZE_WORDS.fullmatch(word) for word in words) and re.fullmatch(r"[\w\s+\-*/%(),.'<>=!&|~]*", expression) is not None


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document with the key that it stands under."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
