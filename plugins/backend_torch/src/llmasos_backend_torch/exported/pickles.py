"""Checks that a file of ``torch.save`` makes nothing but tensors, and containers of them, by walking its pickle's opcodes.

``torch.load(weights_only=True)`` checks it again. This walk comes first because it takes no torch, and because what torch allows can still
take any amount of memory: ``bytearray(10**12)``.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from typing import Final

#: The largest pickle that is walked; the data of tensors lies beside it.
_MOST_BYTES: Final = 1 << 20
_RECORD: Final = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)")
#: What a pickle of tensors imports.
_IMPORTS: Final = re.compile(
    r"collections OrderedDict|torch (Size|device|(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage)"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
)
#: The opcodes of protocol 2 that ``torch.save`` writes: none makes an object except through an import and a call of it.
_OPCODES: Final = frozenset(
    (
        "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
        "BINFLOAT", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    )
)  # fmt: skip


def makes_tensors_only(data: bytes) -> bool:
    """Whether a file of ``torch.save`` holds tensors, numbers, texts and containers alone. Raises what ``zipfile`` does for damaged data,
    and ``ValueError`` for a damaged pickle."""
    if not zipfile.is_zipfile(io.BytesIO(data)):  # the form before torch 1.6, which torch.export never writes
        return False
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(not _RECORD.fullmatch(entry.filename) or entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            return False
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MOST_BYTES:
            return False
        operations = pickletools.genops(archive.read(pickles[0]))
        return all(opcode.name in _OPCODES and (opcode.name != "GLOBAL" or _is_import(argument)) for opcode, argument, _ in operations)


def _is_import(argument: object) -> bool:
    return isinstance(argument, str) and _IMPORTS.fullmatch(argument) is not None
