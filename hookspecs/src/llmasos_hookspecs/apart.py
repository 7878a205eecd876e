"""Functions that read untrusted files in a short-lived child process: their limits, their plain data, and what passed before.

``Context.apart`` runs one. ``inspect_once`` runs one for a file whose content was not inspected before.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos_hookspecs import errors
from llmasos_hookspecs.errors import ApartError, CheckpointError, LLMasOSError
from llmasos_hookspecs.remembered import Remembered

if TYPE_CHECKING:
    from llmasos_hookspecs.context import Context

#: The key that stands for bytes in JSON; no dictionary may have it.
_BYTES: Final = "\0bytes"
#: Most characters of an error's sentence: of one that the function raised on purpose, and of any other.
_LONGEST_SENTENCE: Final = 4000
_LONGEST_FAULT: Final = 300

#: Keys of what passed in this process.
_passed: Final[set[str]] = set()


@attrs.frozen(kw_only=True)
class ApartLimits:
    """The resource limits of a child process.

    Attributes:
        memory: bytes of address space, the interpreter and its libraries (about 300 MB) included. Not enforced on macOS and Windows.
        cpu_seconds: of computing.
        seconds: of the clock.
        output: bytes of the answer, and of any file.
        files: open at once.
    """

    memory: int = 1 << 30
    cpu_seconds: int = 20
    seconds: float = 30.0
    output: int = 1 << 20
    files: int = 64

    @classmethod
    def for_bytes(cls, size: int) -> ApartLimits:
        """Limits for a parser of a file of ``size`` bytes that holds a few copies of it and reads it at 10 MB/s at least."""
        seconds = 30 + size // 10_000_000
        return cls(memory=(1 << 30) + 6 * size, cpu_seconds=seconds, seconds=2.0 * seconds)


def inspect_once(
    context: Context,
    function: str,
    files: Sequence[Path],
    *arguments: Any,
    version: int,
    limits: ApartLimits | None = None,
) -> None:
    """Call ``module:name`` with the paths and the arguments in a child process, unless it returned for files of the same content before.

    Args:
        function: raises ``CheckpointError`` where a file must not be read here. What it returns is ignored.
        files: what it reads; their contents decide whether it passed before, their places do not.
        version: of the function: increase it when it checks more.
        limits: by default those for a parser of files of this size.

    Raises:
        CheckpointError: what the function raised; or it failed, or was stopped, or a file cannot be read.
    """
    where = ", ".join(str(path) for path in files)
    try:
        digests = [context.file_digest(path) for path in files]
        size = sum(path.stat().st_size for path in files)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read ({error.strerror or error}); get the model again.") from error
    known = Remembered(context.cache / "inspected")
    key = hashlib.sha256(pack([function, version, digests, arguments])).hexdigest()
    if key in _passed or key in known:
        _passed.add(key)
        return
    try:
        context.apart(function, *(str(path.absolute()) for path in files), *arguments, limits=limits or ApartLimits.for_bytes(size))
    except ApartError as error:
        if error.stopped:
            raise CheckpointError(f"{where} was not inspected to the end: {error.sentence}; do not use this model.") from error
        raise CheckpointError(f"{where} could not be inspected ({error.kind}: {error.sentence}); get the model again.") from error
    known.add(key)
    _passed.add(key)


def pack(value: Any) -> bytes:
    """Plain data (None, bool, int, float, str, bytes, and lists and dictionaries of it) as one line of JSON with the bytes behind it; a
    tuple becomes a list. Raises ``TypeError`` for anything else."""
    blobs: list[bytes] = []
    line = json.dumps([_outward(value, blobs), [len(blob) for blob in blobs]])
    return b"".join((line.encode(), b"\n", *blobs))


def unpack(data: bytes) -> Any:
    """The value that ``pack`` wrote. Raises ``ValueError``, ``TypeError``, ``LookupError`` or ``RecursionError`` for anything else."""
    line, _, rest = data.partition(b"\n")
    value, lengths = json.loads(line)
    blobs, start = [], 0
    for length in lengths:
        blobs.append(rest[start : start + length])
        start += length
    return _inward(value, blobs)


def named(function: str) -> Callable[..., Any]:
    """The function ``module:name``, whose module is imported; where that fails, a function that raises the error, so that it is told of."""
    module, _, name = function.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except BaseException as error:
        return functools.partial(_raise, error)
    return found


def answer(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    """In the child: call the function; what it returned or raised, for ``result`` in the parent."""
    try:
        return pack(["", function(*arguments)])
    except MemoryError:
        return pack(["MemoryError", "it takes more memory than it may"])
    except RecursionError:
        return pack(["RecursionError", "it is nested too deep"])
    except BaseException as error:
        # Rust's panics derive from BaseException.
        kind = type(error).__name__
        longest = _LONGEST_SENTENCE if isinstance(error, LLMasOSError) else _LONGEST_FAULT
        return pack([kind, (" ".join(str(error).split()) or kind)[:longest]])


def result(data: bytes) -> Any:
    """In the parent: the function's result from a child's answer.

    Raises:
        LLMasOSError: of the class that the function raised, with its sentence.
        ApartError: the function raised another error, or the child ended without an answer.
    """
    try:
        kind, value = unpack(data)
    except (ValueError, TypeError, LookupError, RecursionError):  # it came to no answer, or to a longer one than it may give
        raise ApartError("it takes more time or memory than it may, or crashes the library that reads it", "Killed") from None
    if not kind:
        return value
    known = getattr(errors, str(kind), None)
    if isinstance(known, type) and issubclass(known, LLMasOSError) and known is not ApartError:
        raise known(str(value))
    raise ApartError(str(value), str(kind))


def _raise(error: BaseException, *_: Any) -> None:
    raise error


def _outward(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        blobs.append(bytes(value))
        return {_BYTES: len(blobs) - 1}
    if isinstance(value, list | tuple):
        return [_outward(part, blobs) for part in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key != _BYTES for key in value):
            raise TypeError("a dictionary has a key that is no text, and only plain data goes to another process")
        return {key: _outward(part, blobs) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"it holds a {type(value).__name__}, and only plain data goes to another process")


def _inward(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, list):
        return [_inward(part, blobs) for part in value]
    if isinstance(value, dict):
        if _BYTES in value:
            return blobs[value[_BYTES]]
        return {key: _inward(part, blobs) for key, part in value.items()}
    return value
