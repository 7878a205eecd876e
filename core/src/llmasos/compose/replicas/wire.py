"""The wire format between replicas and their parent: plain data as JSON, arrays as raw bytes; nothing that could run code.

A message is one line of JSON, ``[value, [length in bytes of each block]]``, followed by the blocks. A value of a type that JSON lacks is
an object with one tag: see ``_Encoder``.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np

from llmasos.engine.usage import Usage
from llmasos.residency.prediction import Need
from llmasos.system.config import ComponentConfig
from llmasos_hookspecs import (
    EngineInfo,
    Generation,
    LLMasOSError,
    Media,
    PlacedMedia,
    Request,
    RequestRecord,
    RequestStarted,
    SamplingParams,
    Score,
    StepRecord,
    TokenLogprob,
    errors,
)
from llmasos_hookspecs.guarding.edge import in_words
from llmasos_hookspecs.sampling import Constraint

#: The only classes that a message can instantiate.
_CLASSES: Final[Mapping[str, type[Any]]] = {
    cls.__name__: cls
    for cls in (
        *(Request, SamplingParams, Constraint, Media, PlacedMedia, Generation, TokenLogprob, Score),
        *(ComponentConfig, EngineInfo, Need, RequestRecord, RequestStarted, StepRecord, Usage),
    )
}
#: The errors of the contract by name, and their attributes besides the message.
_ERRORS: Final[Mapping[str, type[LLMasOSError]]] = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, LLMasOSError)
}
_DETAILS: Final = ("path", "retry_after", "problems")
#: Least length of a sequence of integers that is sent as bytes.
_BULK: Final = 32


class WireError(LLMasOSError):
    """A value cannot be sent to another process, or a received message is malformed."""


def pack(message: tuple[Any, ...]) -> bytes:
    """A message as bytes. Raises ``WireError`` for values that are not plain data."""
    encoder = _Encoder()
    try:
        value = [encoder.encode(each) for each in message]
        head = json.dumps([value, [len(block) for block in encoder.blocks]], separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"This cannot be sent to a replica ({error}); give plain data: texts, numbers, lists and mappings.") from error
    return b"".join((head.encode("ascii"), b"\n", *encoder.blocks))


def unpack(data: bytes) -> list[Any]:
    """The inverse of ``pack``. Raises ``WireError`` for a malformed message."""
    try:
        head, _, body = data.partition(b"\n")
        value, sizes = json.loads(head)
        blocks, start = [], 0
        for size in sizes:
            blocks.append(body[start : start + size])
            start += size
        return [_decode(each, blocks) for each in value]
    except Exception as error:  # also of the classes that check what they are made of
        raise WireError(f"What a replica sent is no message ({in_words(error)}).") from error


class _Encoder:
    """Values as JSON has them: ``t`` tuple, ``i`` whole numbers in bulk, ``f`` frozenset, ``m`` mapping, ``b`` bytes, ``a`` array,
    ``c`` object of a class that is listed, ``e`` error."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def encode(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return self.encode(value.item())
        if isinstance(value, list | tuple):
            return self._many(value)
        if isinstance(value, Mapping):
            return {"m": [[self.encode(key), self.encode(each)] for key, each in value.items()]}
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise TypeError(f"an array of {value.dtype}")
            return {"a": self._block(np.ascontiguousarray(value).tobytes()), "dtype": value.dtype.str, "shape": list(value.shape)}
        if isinstance(value, bytes):
            return {"b": self._block(value)}
        if isinstance(value, frozenset):
            return {"f": [self.encode(each) for each in value]}
        if isinstance(value, LLMasOSError):
            return self._error(value)
        if _CLASSES.get(type(value).__name__) is type(value):
            names = [field.name for field in attrs.fields(_CLASSES[type(value).__name__])]
            return {"c": type(value).__name__, "fields": {name: self.encode(getattr(value, name)) for name in names}}
        raise TypeError(f"a {type(value).__name__}")

    def _many(self, value: list[Any] | tuple[Any, ...]) -> Any:
        if len(value) >= _BULK and all(type(each) is int for each in value):
            try:
                return {"i": self._block(array("q", value).tobytes()), "tuple": isinstance(value, tuple)}
            except OverflowError:
                pass
        items = [self.encode(each) for each in value]
        return {"t": items} if isinstance(value, tuple) else items

    def _error(self, error: LLMasOSError) -> Any:
        """An error as its kind and its message, since an error's own class may hold and require anything."""
        kind = next(cls.__name__ for cls in type(error).__mro__ if _ERRORS.get(cls.__name__) is cls)
        details = {name: getattr(error, name) for name in _DETAILS if hasattr(error, name)}
        try:
            sentence = str(error)
        except Exception:
            sentence = in_words(error)
        try:
            return {"e": kind, "sentence": sentence, "details": self.encode(details)}
        except TypeError:
            return {"e": kind, "sentence": sentence, "details": {"m": []}}

    def _block(self, data: bytes) -> int:
        self.blocks.append(data)
        return len(self.blocks) - 1


def _decode(value: Any, blocks: list[bytes]) -> Any:
    if isinstance(value, list):
        return [_decode(each, blocks) for each in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value))
    inner = value[tag]
    match tag:
        case "t":
            return tuple(_decode(each, blocks) for each in inner)
        case "i":
            numbers = array("q", blocks[inner]).tolist()
            return tuple(numbers) if value["tuple"] else numbers
        case "f":
            return frozenset(_decode(each, blocks) for each in inner)
        case "m":
            return {_decode(key, blocks): _decode(each, blocks) for key, each in inner}
        case "b":
            return blocks[inner]
        case "a":
            # A copy: what numpy makes of bytes cannot be written to.
            return np.frombuffer(blocks[inner], np.dtype(value["dtype"])).reshape(value["shape"]).copy()
        case "c":
            return _CLASSES[inner](**{name: _decode(each, blocks) for name, each in value["fields"].items()})
        case "e":
            error = _ERRORS[inner](value["sentence"])
            details = _decode(value["details"], blocks)
            for name in _DETAILS:
                if name in details:
                    setattr(error, name, details[name])
            return error
    raise ValueError(f"the tag {tag}")
