"""GGUF files taken apart by their own form, changed, and put together again. See the GGUF specification of ggml."""

from __future__ import annotations

import struct
from typing import Final

import attrs

from benchmarks.fuzz.mutation import EDGES, Random, often_plain, plain

_STRING, _ARRAY = 8, 9
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT: Final = 32


@attrs.define
class _Entry:
    """Of metadata: key, type, and the value's bytes."""

    key: bytes
    kind: int
    value: bytes


@attrs.define
class _Info:
    """Of a tensor."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("it is cut")
        self.at += size
        return found

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def text(self) -> bytes:
        return self.take(self.number(8))

    def value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY and depth < 4:
            inner, count = self.number(4), self.number(8)
            if inner in _WIDTHS:
                self.take(_WIDTHS[inner] * count)
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            self.take(_WIDTHS[kind])


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


@often_plain
def gguf_file(data: bytes, rng: Random) -> bytes:
    """A file with metadata or tensor descriptions changed, removed, repeated or of another type; counts and lengths are right."""
    reader = _Reader(data)
    head, tensors, entries = reader.take(8), reader.number(8), reader.number(8)
    if max(tensors, entries) > 10_000:
        raise ValueError("counts that are none")
    metadata = []
    for _ in range(entries):
        key, kind = reader.text(), reader.number(4)
        start = reader.at
        reader.value(kind)
        metadata.append(_Entry(key, kind, data[start : reader.at]))
    infos = [
        _Info(reader.text(), [reader.number(8) for _ in range(min(reader.number(4), 64))], reader.number(4), reader.number(8))
        for _ in range(tensors)
    ]
    body = data[-(-reader.at // _ALIGNMENT) * _ALIGNMENT :]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if infos and rng.random() < 0.4:
            _change_info(infos, rng)
        elif metadata:
            _change_entry(metadata, rng)
    out = bytearray(head + len(infos).to_bytes(8, "little") + len(metadata).to_bytes(8, "little"))
    for entry in metadata:
        out += _text(entry.key) + (entry.kind % 2**32).to_bytes(4, "little") + entry.value
    for info in infos:
        out += _text(info.name) + struct.pack("<I", len(info.shape)) + b"".join((size % 2**64).to_bytes(8, "little") for size in info.shape)
        out += struct.pack("<IQ", info.kind % 2**32, info.offset % 2**64)
    return bytes(out) + bytes(-len(out) % _ALIGNMENT) + body


def _change_info(infos: list[_Info], rng: Random) -> None:
    at = rng.randrange(len(infos))
    info = infos[at]
    match rng.randrange(7):
        case 0:
            del infos[at]
        case 1:
            infos.append(attrs.evolve(info, shape=list(info.shape)))
        case 2:
            info.name = rng.choice((plain(info.name, rng), rng.choice(infos).name))
        case 3:
            info.kind = rng.choice((rng.randrange(45), rng.choice(EDGES)))
        case 4:
            info.offset = rng.choice((info.offset + 32, info.offset - 32, rng.choice(EDGES)))
        case 5:
            info.shape.insert(rng.randrange(len(info.shape) + 1), rng.choice(EDGES))
        case _ if info.shape:
            place = rng.randrange(len(info.shape))
            info.shape[place] = rng.choice((info.shape[place] * 2, info.shape[place] + 32, rng.choice(EDGES)))


def _change_entry(metadata: list[_Entry], rng: Random) -> None:
    at = rng.randrange(len(metadata))
    entry = metadata[at]
    match rng.randrange(8):
        case 0:
            del metadata[at]
        case 1:
            metadata.append(attrs.evolve(entry))
        case 2:
            entry.key = plain(entry.key, rng)
        case 3:
            other = rng.choice(metadata)
            entry.kind, entry.value = other.kind, other.value
        case 4 if entry.kind == _ARRAY:
            width = _WIDTHS.get(int.from_bytes(entry.value[:4], "little"))
            if width:
                content = plain(entry.value[12:], rng)
                content = content[: len(content) // width * width]
                entry.value = entry.value[:4] + (len(content) // width).to_bytes(8, "little") + content
        case 4 | 5 if entry.kind == _STRING:
            entry.value = _text(plain(entry.value[8:], rng))
        case _ if entry.kind in _WIDTHS:
            width = _WIDTHS[entry.kind]
            entry.value = rng.choice(
                ((rng.choice(EDGES) % 256**width).to_bytes(width, "little"), plain(entry.value, rng)[:width].ljust(width, b"\0"))
            )
        case _:
            entry.kind, entry.value = 4, (rng.choice(EDGES) % 2**32).to_bytes(4, "little")
