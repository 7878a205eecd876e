"""Typed access to GGUF metadata; the errors name the file and the key."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmasos_format_gguf.header import GGUFHeader, StringArray
from llmasos_hookspecs import CheckpointError


def architecture(header: GGUFHeader) -> str:
    """``general.architecture``, which prefixes the keys of the model's shape."""
    found = header.metadata.get("general.architecture")
    if not isinstance(found, str):
        raise CheckpointError(f"{header.path} has no general.architecture in its metadata; get it again.")
    return found


def text(header: GGUFHeader, key: str) -> str | None:
    """A string; None where the key is missing."""
    found = header.metadata.get(key)
    if found is not None and not isinstance(found, str):
        raise _wrong(header, key, "text")
    return found


def single(header: GGUFHeader, key: str, default: Any = None) -> Any:
    """One text, number or truth value. A number for each layer is taken where all are the same.

    What is compared comes from here: an array compared with a number is an array.
    """
    found = header.metadata.get(key, default)
    if getattr(found, "ndim", None) == 1 and len(found) and bool((found == found[0]).all()):
        found = found[0].item()
    if hasattr(found, "__len__") and not isinstance(found, str):
        raise _wrong(header, key, "one value")
    return found


def count(header: GGUFHeader, key: str, default: int | None = None) -> int:
    """A whole number above 0. A number for each layer is taken where all are the same."""
    found = single(header, key, default)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found < 2**31:
        raise _wrong(header, key, "one whole number above 0")
    return found


def natural(header: GGUFHeader, key: str, default: int | None = None) -> int:
    """A whole number from 0."""
    found = header.metadata.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**31:
        raise _wrong(header, key, "one whole number")
    return found


def number(header: GGUFHeader, key: str, default: float | None = None) -> float:
    """A finite number."""
    found = header.metadata.get(key, default)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not math.isfinite(found):
        raise _wrong(header, key, "a finite number")
    return float(found)


def flag(header: GGUFHeader, key: str) -> bool | None:
    """True or false; None where the key is missing."""
    found = header.metadata.get(key)
    if found is not None and not isinstance(found, bool):
        raise _wrong(header, key, "true or false")
    return found


def token_id(header: GGUFHeader, key: str) -> int | None:
    """A token id within the file's vocabulary; None where the key is missing, or holds the -1 that some converters write."""
    found = single(header, key)
    if found is None or found in (-1, 0xFFFFFFFF):
        return None
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    limit = len(tokens) if isinstance(tokens, StringArray) else 2**31
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < limit:
        raise _wrong(header, key, "a token of the vocabulary")
    return found


def strings(header: GGUFHeader, key: str) -> list[str]:
    """An array of strings."""
    found = header.metadata.get(key)
    if not isinstance(found, StringArray):
        raise _wrong(header, key, "an array of strings")
    return found.decoded()


def numbers(header: GGUFHeader, key: str, length: int) -> Any:
    """An array of ``length`` numbers, as numpy's; None where the key is missing."""
    found = header.metadata.get(key)
    if found is None:
        return None
    if getattr(found, "ndim", None) != 1 or len(found) != length:
        raise _wrong(header, key, f"an array of {length} numbers")
    return found


def naturals(header: GGUFHeader, key: str, length: int) -> list[int]:
    """``length`` whole numbers from 0; one number is taken for all."""
    found = header.metadata.get(key)
    if isinstance(found, int):
        return [natural(header, key)] * length
    listed = numbers(header, key, length)
    if listed is None or listed.dtype.kind not in "iu" or not all(0 <= each < 2**31 for each in listed.tolist()):
        raise _wrong(header, key, f"an array of {length} whole numbers")
    return [int(each) for each in listed]


def array(header: GGUFHeader, key: str) -> Any:
    """A numpy array of whole numbers; None where the key is missing."""
    found = header.metadata.get(key)
    if found is not None and getattr(getattr(found, "dtype", None), "kind", "") not in ("i", "u"):
        raise _wrong(header, key, "a list of whole numbers")
    return found


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for the file's 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def stored(value: float) -> np.float32:
    """A number as the file has it. Raises ``ValueError`` where float32 cannot hold it."""
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{value} is no number that float32 holds")
    return np.float32(value)


def _wrong(header: GGUFHeader, key: str, expected: str) -> CheckpointError:
    found = header.metadata.get(key)
    shown = "nothing" if found is None else "an array" if hasattr(found, "__len__") and not isinstance(found, str) else str(found)[:40]
    return CheckpointError(f"{header.path} has {shown} in its metadata {key}, and {expected} is needed there; get it again.")
