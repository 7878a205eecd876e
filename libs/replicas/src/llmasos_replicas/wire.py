"""The wire format between replicas and their parent: plain data as MessagePack (https://msgpack.org), in which nothing can run code.

A message is an array of values. One of a type that MessagePack lacks is a map whose first key is a tag: see ``_encoded``.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec
import numpy as np

from llmasos_engine.usage import Usage
from llmasos_hookspecs import (
    EngineInfo,
    Generation,
    LLMasOSError,
    Media,
    PlacedMedia,
    PromptProgress,
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
from llmasos_options.component import ComponentConfig
from llmasos_residency.prediction import Need

#: The only classes that a message can instantiate.
_CLASSES: Final[Mapping[str, type[Any]]] = {
    cls.__name__: cls
    for cls in (
        *(Request, SamplingParams, Constraint, Media, PlacedMedia, PromptProgress, Generation, TokenLogprob, Score),
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
    try:
        return msgspec.msgpack.encode([_encoded(each) for each in message])
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"This cannot be sent to a replica ({error}); give plain data: texts, numbers, lists and mappings.") from error


def unpack(data: bytes) -> list[Any]:
    """The inverse of ``pack``. Raises ``WireError`` for a malformed message."""
    try:
        return [_decoded(each) for each in msgspec.msgpack.decode(data, type=list)]
    except Exception as error:  # also of the classes that check what they are made of
        raise WireError(f"What a replica sent is no message ({in_words(error)}).") from error


def _encoded(value: Any) -> Any:
    """A value as MessagePack has it. Tags: ``t`` tuple, ``i`` whole numbers in bulk, ``n`` a number of more than 64 bits, ``s`` text that
    is no Unicode, ``f`` frozenset, ``m`` mapping, ``a`` array, ``c`` object of a class that is listed, ``e`` error."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else {"n": str(int(value))}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, np.generic):
        return _encoded(value.item())
    if isinstance(value, list | tuple):
        return _many(value)
    if isinstance(value, Mapping):
        return {"m": [[_encoded(key), _encoded(each)] for key, each in value.items()]}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype}")
        return {"a": np.ascontiguousarray(value).tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, bytes):
        return value
    if isinstance(value, frozenset):
        return {"f": [_encoded(each) for each in value]}
    if isinstance(value, LLMasOSError):
        return _error(value)
    if _CLASSES.get(type(value).__name__) is type(value):
        names = [field.name for field in attrs.fields(_CLASSES[type(value).__name__])]
        return {"c": type(value).__name__, "fields": {name: _encoded(getattr(value, name)) for name in names}}
    raise TypeError(f"a {type(value).__name__}")


def _text(value: str) -> Any:
    """A text may hold half a surrogate pair: JSON of a client can."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"s": value.encode("utf-8", "surrogatepass")}
    return value


def _many(value: list[Any] | tuple[Any, ...]) -> Any:
    if len(value) >= _BULK and all(type(each) is int for each in value):
        try:
            return {"i": array("q", value).tobytes(), "tuple": isinstance(value, tuple)}
        except OverflowError:
            pass
    items = [_encoded(each) for each in value]
    return {"t": items} if isinstance(value, tuple) else items


def _error(error: LLMasOSError) -> Any:
    """An error as its kind and its message, since an error's own class may hold and require anything."""
    kind = next(cls.__name__ for cls in type(error).__mro__ if _ERRORS.get(cls.__name__) is cls)
    details = {name: getattr(error, name) for name in _DETAILS if hasattr(error, name)}
    try:
        sentence = str(error)
    except Exception:
        sentence = in_words(error)
    try:
        return {"e": kind, "sentence": _text(sentence), "details": _encoded(details)}
    except TypeError:
        return {"e": kind, "sentence": _text(sentence), "details": {"m": []}}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__}")
    tag = next(iter(value))
    inner = value[tag]
    match tag:
        case "t":
            return tuple(_decoded(each) for each in inner)
        case "i":
            numbers = array("q", inner).tolist()
            return tuple(numbers) if value["tuple"] else numbers
        case "n":
            return int(inner)
        case "s":
            return inner.decode("utf-8", "surrogatepass")
        case "f":
            return frozenset(_decoded(each) for each in inner)
        case "m":
            return {_decoded(key): _decoded(each) for key, each in inner}
        case "a":
            # A copy: what numpy makes of bytes cannot be written to.
            return np.frombuffer(inner, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
        case "c":
            return _CLASSES[inner](**{name: _decoded(each) for name, each in value["fields"].items()})
        case "e":
            error = _ERRORS[inner](_decoded(value["sentence"]))
            details = _decoded(value["details"])
            for name in _DETAILS:
                if name in details:
                    setattr(error, name, details[name])
            return error
    raise ValueError(f"the tag {tag}")
