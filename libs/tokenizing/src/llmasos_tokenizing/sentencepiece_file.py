"""SentencePiece's own model files (``ModelProto`` of sentencepiece_model.proto), as far as a tokenizer needs them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.folder import read_small
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_tokenizing.sentencepiece_model import BYTE, SentencePieceModel

#: Gemma's, the largest in use, has 4 MB.
_MAX_BYTES: Final = 64 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: ``TrainerSpec.ModelType``.
_UNIGRAM, _BPE = 1, 2


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a file.

    Raises:
        CheckpointError: the file is none, or is damaged.
        UnsupportedModel: it is of a kind that no language model is known to use: whole words, characters, spaces after words.
    """
    data = read_small(path, _MAX_BYTES)
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                piece = dict(_fields(value))
                pieces.append(piece[1].decode())
                scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
                kinds.append(int(piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
        charsmap = bytes(normalizer.get(2, b""))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path} is no SentencePiece model, or a damaged one; get the checkpoint again.") from error
    if not pieces:
        raise CheckpointError(f"{path} holds no pieces, so that it is no SentencePiece model; get the checkpoint again.")
    kind = trainer.get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE) or trainer.get(24, 0) or not normalizer.get(5, 1):
        raise UnsupportedModel(
            f"{path} is a SentencePiece model of words, of characters or with spaces after words; BPE and unigram are read."
        )
    return SentencePieceModel(
        pieces,
        scores,
        kinds,
        is_bpe=kind == _BPE,
        prefix=bool(normalizer.get(3, 1)),
        squeeze=bool(normalizer.get(4, 1)),
        charsmap=charsmap,
    )


def sentencepiece_bytes(model: SentencePieceModel) -> bytes:
    """The contents of a file that holds ``model``; the SentencePiece library reads it too."""
    pieces = b"".join(
        _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for piece, score, kind in zip(model.pieces, model.scores, model.kinds, strict=True)
    )
    trainer = _field(3, _BPE if model.is_bpe else _UNIGRAM) + _field(35, int(BYTE in model.kinds))
    rules = _field(2, model.charsmap) if model.charsmap else b""
    normalizer = rules + _field(3, int(model.prefix)) + _field(4, int(model.squeeze)) + _field(5, 1)
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _spelt(number << 3 | _VARINT) + _spelt(value)
    return _spelt(number << 3 | _BYTES) + _spelt(len(value)) + value


def _spelt(value: int) -> bytes:
    """A whole number as a varint."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer: an int for varints, bytes for all others."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if place + size > len(data):
            raise ValueError("a field ends past the file")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
