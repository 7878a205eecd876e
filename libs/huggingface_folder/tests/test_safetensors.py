"""The safetensors reader: like the library's on good files, one sentence on bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from llmasos_hookspecs import CheckpointError
from llmasos_huggingface_folder.safetensors import MAX_HEADER_BYTES, SafetensorsFile, SafetensorsStream


def file_of(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_arrays_of_every_type_are_read_as_they_were_saved_and_cannot_be_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal(7).astype(np.float16),
        "c": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "d": np.arange(6, dtype=np.int64).reshape(1, 6),
        "e": np.zeros((0, 4), np.float32),
        "f": np.array(3.5, np.float32),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    found = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(found.tensors) == set(arrays)
    for name, array in arrays.items():
        tensor = found.tensor(name)
        assert tensor.dtype == array.dtype
        np.testing.assert_array_equal(tensor, array)
        assert not tensor.flags.writeable


def test_what_the_stream_writes_the_library_reads(tmp_path: Path) -> None:
    arrays = {f"layer.{i}": np.full((3, 4), i, ml_dtypes.bfloat16 if i % 2 else np.float32) for i in range(9)}
    stream = SafetensorsStream(tmp_path / "y.safetensors", reserve=2000)
    for name, array in arrays.items():
        assert stream.fits(name, array)
        stream.append(name, array)
    stream.close()
    with safe_open(tmp_path / "y.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name).float().numpy(), array.astype(np.float32))


def test_the_stream_takes_no_tensor_that_its_header_or_the_alignment_has_no_room_for(tmp_path: Path) -> None:
    stream = SafetensorsStream(tmp_path / "z.safetensors", reserve=400)
    stream.append("odd", np.zeros(3, np.float16))
    assert not stream.fits("x", np.zeros(2, np.float32))
    assert stream.fits("x", np.zeros(2, np.float16))
    assert not stream.fits("x" * 400, np.zeros(2, np.float16))
    stream.close()
    assert list(SafetensorsFile(tmp_path / "z.safetensors").tensors) == ["odd"]


BAD = {
    "empty": (b"", None, "is empty"),
    "short": (b"\1\2\3", None, "no safetensors file"),
    "header longer than file": ({"a": entry()}, 10**6, "truncated"),
    "header of exabytes": ({"a": entry()}, 2**63, "truncated"),
    "no json": (b"{{{", -1, "not valid JSON"),
    "deep json": (b"[" * 100_000, -1, "not valid JSON"),
    "no object": ([1, 2], -1, "not an object"),
    "unknown type": ({"a": entry("F31")}, -1, "'F31'"),
    "negative shape": ({"a": entry(shape=[-2])}, -1, "impossible shape"),
    "shape of floats": ({"a": entry(shape=[2.0])}, -1, "impossible shape"),
    "too many dimensions": ({"a": entry(shape=[1] * 9)}, -1, "impossible shape"),
    "shape and bytes differ": ({"a": entry(shape=[3])}, -1, "do not fit"),
    "huge shape": ({"a": entry(shape=[2**62, 2**62])}, -1, "do not fit"),
    "beyond the end": ({"a": entry(offsets=[0, 16], shape=[4])}, -1, "truncated"),
    "backwards": ({"a": entry(offsets=[8, 0])}, -1, "do not fit"),
    "overlap": ({"a": entry(), "b": entry(shape=[1], offsets=[4, 8])}, -1, "overlapping"),
    "gap": ({"a": entry(shape=[1], offsets=[4, 8])}, -1, "gap"),
    "rest": ({"a": entry(shape=[1], offsets=[0, 4])}, -1, "its tensors end"),
    "entry is no object": ({"a": 5}, -1, "no object"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, -1, "without a place"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    header, length, words = BAD[name]
    path = tmp_path / "bad.safetensors"
    if length is None:
        path.write_bytes(header)
    else:
        file_of(path, header, b"\0" * 8, None if length == -1 else length)
    with pytest.raises(CheckpointError, match=words) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_header_longer_than_any_real_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 8).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 64)
    with pytest.raises(CheckpointError, match="more than any real"):
        SafetensorsFile(path)


def test_a_missing_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        SafetensorsFile(tmp_path / "none.safetensors")
