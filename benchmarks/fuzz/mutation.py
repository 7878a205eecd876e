"""Changes to files that keep them files of their kind: lengths, counts and checksums are those of the changed content.

Each mutator also makes plain changes of bytes now and then: that a length is wrong is a case too.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

Random = random.Random
Mutator = Callable[[bytes, Random], bytes]

#: Numbers at the edges of types.
EDGES: Final = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
#: How often a mutator with a format in mind changes bytes all the same.
_PLAIN: Final = 0.15
_WORDS: Final = (
    "",
    ".",
    "..",
    "../outside",
    "/etc/passwd",
    "a" * 300,
    "\ud800",
    "\x00",
    "天气",
    "0",
    "-1",
    "1e400",
    "NaN",
    "__class__",
    "{{",
    "\n",
)


def plain(data: bytes, rng: Random) -> bytes:
    """Bytes overwritten, removed, repeated or moved at a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        width = rng.choice((1, 1, 2, 4, 8))
        match rng.randrange(6):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + width] = (rng.choice(EDGES) % 256**width).to_bytes(width, "little")
            case 2:
                del out[at : at + rng.choice((1, 4, 16, 64))]
            case 3:
                out[at:at] = rng.randbytes(width)
            case 4:
                start = rng.randrange(len(out) + 1)
                out[at:at] = out[start : start + rng.choice((1, 4, 16, 64))]
            case _ if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def often_plain(mutate: Mutator) -> Mutator:
    def either(data: bytes, rng: Random) -> bytes:
        if rng.random() < _PLAIN:
            return plain(data, rng)
        try:
            return mutate(data, rng)
        except Exception:  # parsers of a dozen formats
            return plain(data, rng)  # an input that is none of the kind any more

    return either


def text_of(pieces: Sequence[str]) -> Mutator:
    """Text that pieces are put into, taken out of and repeated."""

    @often_plain
    def mutate(data: bytes, rng: Random) -> bytes:
        text = data.decode("utf-8", "replace")
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 5, 20)))
        kept = text[at:end] * rng.choice((0, 1, 2))
        return (text[:at] + kept + "".join(rng.choices(pieces, k=rng.choice((0, 1, 2, 4)))) + text[end:]).encode("utf-8", "replace")

    return mutate


def json_value(rng: Random, depth: int = 0) -> Any:
    """What JSON can hold, seldom deep."""
    match rng.randrange(9 if depth < 3 else 6):
        case 0:
            return rng.choice((None, True, False))
        case 1 | 2:
            return rng.choice((1, -1)) * (rng.choice(EDGES) + rng.choice((0, 0, 1)))
        case 3:
            return rng.choice((0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf")))
        case 4 | 5:
            return rng.choice(_WORDS)
        case 6 | 7:
            return [json_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3)))]
        case _:
            return {rng.choice(("", "a", "type", "weight", "config")): json_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2)))}


def changed_tree(value: Any, rng: Random) -> Any:
    """A JSON document with one value replaced, removed, wrapped, repeated, or put in the place of another."""
    places = list(_places(value))
    place = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            new = json_value(rng)
        case 3:
            new = _at(value, rng.choice(places))
        case 4:
            new = rng.choice(([_at(value, place)], {"type": _at(value, place)}))
        case 5:
            new = _nudged(_at(value, place), rng)
        case 6:
            return _without(value, place)
        case _:
            new = _at(value, place)
            if isinstance(new, list):
                new = new * rng.choice((2, 3, 40))
            elif isinstance(new, dict):
                new = {**new, rng.choice(("", "type", *map(str, new))) + rng.choice(("", "2")): json_value(rng)}
            else:
                new = json_value(rng)
    return _replaced(value, place, new)


def _nudged(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value), str(value)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(_WORDS) + value[at + rng.choice((0, 1, 5)) :]
    return json_value(rng)


def _places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths to the values of a tree; of many alike the first few."""
    found = [at]
    children = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, child in children[:40]:
        found += _places(child, (*at, key))
    return found


def _at(value: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _replaced(value[place[0]], place[1:], new)
    return copy


def _without(value: Any, place: tuple[str | int, ...]) -> Any:
    if not place:
        return {}
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _without(value[place[0]], place[1:])
    return copy


def _write(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


@often_plain
def json_file(data: bytes, rng: Random) -> bytes:
    """A JSON document with other values; seldom one nested deeper than any parser goes."""
    if rng.random() < 0.01:
        depth = rng.choice((50, 900, 5000))
        return rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = changed_tree(value, rng)
    return _write(value)


@often_plain
def safetensors_file(data: bytes, rng: Random) -> bytes:
    """A header with other values and its own length before it; now and then another length of data behind."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json_file(data[8 : 8 + size], rng), data[8 + size :]
    if rng.random() < 0.2:
        rest = plain(rest, rng)
    return len(header).to_bytes(8, "little") + header + rest


def parted(*mutators: Mutator) -> Mutator:
    """For inputs that begin with the number of the file they replace: the mutator of that file, seldom another file."""

    def mutate(data: bytes, rng: Random) -> bytes:
        number = data[0] % len(mutators) if data else 0
        if rng.random() < 0.02:
            number = rng.randrange(len(mutators))
        return bytes([number]) + mutators[number](data[1:], rng)

    return mutate


def zip_file(by_ending: dict[str, Mutator], compression: int = zipfile.ZIP_STORED) -> Mutator:
    """An archive with one member changed by the mutator of its name's ending, or renamed, removed or repeated; checksums are right."""

    @often_plain
    def mutate(data: bytes, rng: Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        number = rng.randrange(len(members))
        info, content = members[number]
        match rng.randrange(12):
            case 0:
                del members[number]
            case 1:
                members.append((info, content))
            case 2:
                info.filename = rng.choice(
                    (info.filename + "x", "../" + info.filename, "/" + info.filename, rng.choice(_WORDS[:9]), "a/" * 200)
                )
            case 3:
                info.external_attr = rng.choice((0o120777, 0o020666, 0o100644, 0o040755)) << 16
            case _:
                change = next((each for ending, each in by_ending.items() if info.filename.endswith(ending)), plain)
                members[number] = (info, change(content, rng))
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for info, content in members:
                copy = zipfile.ZipInfo(info.filename)
                copy.external_attr, copy.compress_type = info.external_attr, compression
                with archive.open(copy, "w") as file:
                    file.write(content)
        return out.getvalue()

    def quiet(data: bytes, rng: Random) -> bytes:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name comes twice is meant
            return mutate(data, rng)

    return quiet


@often_plain
def tar_file(data: bytes, rng: Random) -> bytes:
    """A tape with bytes of a header changed, whose checksum is right; gzipped where it was."""
    zipped = data[:2] == b"\x1f\x8b"
    tape = bytearray(zlib.decompressobj(31).decompress(data, 1 << 20) if zipped else data)
    heads = [at for at in range(0, len(tape) - 511, 512) if tape[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    match rng.randrange(6):
        case 0:
            name = rng.choice(("../x", "/tmp/x", "a", "a/b", "\\x", "a" * 99, "", "\udcff")).encode("utf-8", "surrogateescape")
            tape[at : at + 100] = name.ljust(100, b"\0")
        case 1:
            tape[at + 156] = rng.choice(b"0123456789xgLKVSDANM\0")
        case 2:
            size = rng.choice(
                (
                    b"00000000000\0",
                    b"77777777777\0",
                    b"\x80" + b"\xff" * 11,
                    b"\xff" * 12,
                    b"        12 \0",
                    f"{rng.randrange(9999):011o}\0".encode(),
                )
            )
            tape[at + 124 : at + 136] = size
        case 3:
            tape[at + rng.randrange(512)] = rng.randrange(256)
        case 4:
            tape[at:at] = tape[at : at + 1024]
        case _:
            tape = bytearray(plain(bytes(tape), rng))
    for head in range(0, len(tape) - 511, 512):
        if tape[head + 257 : head + 262] == b"ustar":
            tape[head + 148 : head + 156] = b" " * 8
            tape[head + 148 : head + 156] = f"{sum(tape[head : head + 512]):06o}\0 ".encode()
    if not zipped:
        return bytes(tape)
    packer = zlib.compressobj(wbits=31)
    return packer.compress(bytes(tape)) + packer.flush()


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    """A tape of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tape:  # type: ignore[call-overload]  # the mode is one of three strings
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tape.addfile(entry, io.BytesIO(content))
    return out.getvalue()
