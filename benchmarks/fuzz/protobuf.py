"""Changes to protobuf messages without their schema: fields are found by their wire form, and lengths around a change are made right."""

from __future__ import annotations

import contextlib
import struct
from typing import Any, Final

import attrs

from benchmarks.fuzz.mutation import EDGES, Random, often_plain, plain

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST: Final = 12


@attrs.define
class _Field:
    number: int
    wire: int
    value: Any  # int, bytes, or a list of fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint has ten bytes at most")


def _parse(data: bytes, depth: int = 0) -> list[_Field]:
    """The fields of a message. Raises ``ValueError`` or ``IndexError`` where it is none."""
    fields, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("a field has a number")
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            value, at = data[at : at + size], at + size
        elif wire == _BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            if len(value) < size:
                raise ValueError("it is cut")
            if value and depth < _DEEPEST and (not value.isascii() or value[:1] < b" "):
                with contextlib.suppress(ValueError, IndexError):  # text, or numbers one behind the other
                    value = _parse(value, depth + 1)
        else:
            raise ValueError("a wire form that is not read")
        if at > len(data):
            raise ValueError("it is cut")
        fields.append(_Field(number, wire, value))
    return fields


def _pack(value: int) -> bytes:
    out, value = bytearray(), value % 2**64
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _build(fields: list[_Field]) -> bytes:
    out = bytearray()
    for field in fields:
        out += _pack(field.number << 3 | field.wire)
        if field.wire == _VARINT:
            out += _pack(field.value)
        elif field.wire == _BYTES:
            content = _build(field.value) if isinstance(field.value, list) else field.value
            out += _pack(len(content)) + content
        else:
            out += field.value
    return bytes(out)


def _groups(fields: list[_Field]) -> list[list[_Field]]:
    found = [fields]
    for field in fields:
        if isinstance(field.value, list):
            found += _groups(field.value)
    return found


@often_plain
def protobuf_file(data: bytes, rng: Random) -> bytes:
    """A message with fields changed, removed, repeated, nested in one another or given another number."""
    fields = _parse(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        groups = [group for group in _groups(fields) if group]
        if not groups:
            break
        group = rng.choice(groups)
        at = rng.randrange(len(group))
        field = group[at]
        match rng.randrange(10):
            case 0:
                del group[at]
            case 1:
                group.insert(rng.randrange(len(group) + 1), attrs.evolve(field))
            case 2:
                field.number = rng.choice((field.number + 1, max(1, field.number - 1), rng.randrange(1, 60)))
            case 3:
                other = rng.choice(rng.choice(groups))
                group[at] = _Field(other.number, other.wire, _copied(other.value))
            case 4 if isinstance(field.value, list) and len(_build(fields)) < 1 << 18:
                field.value = [*field.value, _Field(field.number, field.wire, _copied(field.value))]
            case _:
                _change(field, rng)
    return _build(fields)


def _change(field: _Field, rng: Random) -> None:
    if field.wire == _VARINT:
        field.value = rng.choice((*EDGES, field.value + 1, field.value - 1, -1))
    elif isinstance(field.value, bytes):
        words = (b"", b"..", b"../outside", b"/etc/passwd", b"a" * 300, b"\xff", b"0", b"-1", b"99999999999999999999")
        changed = rng.choice(words) if field.wire == _BYTES and rng.random() < 0.3 else plain(field.value, rng)
        field.value = changed if field.wire == _BYTES else changed[: len(field.value)].ljust(len(field.value), b"\0")
    elif field.value:
        _change(rng.choice(field.value), rng)


def _copied(value: Any) -> Any:
    return [_Field(each.number, each.wire, _copied(each.value)) for each in value] if isinstance(value, list) else value


def message(*fields: tuple[int, Any]) -> bytes:
    """A message of whole numbers, bytes, texts and float32 of four bytes, for seeds: ``(field number, value)``."""
    out = []
    for number, value in fields:
        if isinstance(value, float):
            out.append(_Field(number, _FIXED32, struct.pack("<f", value)))
        elif isinstance(value, int):
            out.append(_Field(number, _VARINT, value))
        else:
            out.append(_Field(number, _BYTES, value.encode() if isinstance(value, str) else value))
    return _build(out)
