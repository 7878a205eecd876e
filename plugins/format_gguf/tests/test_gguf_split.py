"""Split GGUF models: all parts are read as one, whichever is named, or none of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import CheckpointError

_COUNT = 3


@pytest.fixture
def whole(tmp_path: Path, saved: Callable[..., Path]) -> Path:
    return write_gguf(open_model(saved("qwen2")), tmp_path / "whole.gguf", "q8_0").path


@pytest.fixture
def split(whole: Path, tmp_path: Path) -> Path:
    """The folder of a model in three parts, written by the ``gguf`` package."""
    folder = tmp_path / "split"
    folder.mkdir()
    write_parts(whole, folder)
    return folder


def write_parts(whole: Path, folder: Path, **changes: Any) -> None:
    """``changes``: of the second part: ``no``, ``count``, ``total``, or ``extra`` for the name of a tensor more."""
    reader = gguf.GGUFReader(whole)
    for part in range(_COUNT):
        own = changes if part == 1 else {}
        writer = gguf.GGUFWriter(folder / name(part), "qwen2")
        writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_NO, own.get("no", part))
        writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, own.get("count", _COUNT))
        writer.add_int32(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, changes.get("total", len(reader.tensors)))
        if part == 0:
            for key, field in reader.fields.items():
                if not key.startswith(("GGUF.", "general.architecture")):
                    value_type = field.types[0]
                    sub = field.types[1] if len(field.types) > 1 else None
                    writer.add_key_value(key, field.contents(), value_type, sub)
        for tensor in reader.tensors[part::_COUNT]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if "extra" in own:
            writer.add_tensor(own["extra"], np.zeros(64, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def name(part: int) -> str:
    return f"m-{part + 1:05}-of-{_COUNT:05}.gguf"


def test_all_parts_are_read_whichever_is_named(whole: Path, split: Path) -> None:
    expected = open_model(whole)
    digests = set()
    for path in (split, *(split / name(part) for part in range(_COUNT))):
        found = open_model(path)
        assert found.path == split / name(0)
        assert set(found.names()) == set(expected.names())
        assert found.config == expected.config
        for tensor in found.names():
            one, other = found.tensor(tensor), expected.tensor(tensor)
            np.testing.assert_array_equal(getattr(one, "codes", one), getattr(other, "codes", other))
        digests.add(found.digest)
    assert len(digests) == 1


def test_the_digest_covers_every_part(split: Path) -> None:
    before = open_model(split).digest
    path = split / name(2)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert open_model(split).digest != before


def test_a_missing_part_is_named(split: Path) -> None:
    (split / name(1)).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {name(1)}, part 2 of 3"):
        open_model(split / name(2))
    with pytest.raises(CheckpointError, match=rf"lacks {name(1)}"):
        open_model(split)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"no": 2}, "says that it is part 2 of 3, counted from 0, and its name says 1 of 3"),
        ({"count": 4}, "says that it is part 1 of 4"),
        ({"total": 5}, "announces 5 tensors in all its parts"),
        ({"extra": "token_embd.weight"}, "which another part holds too"),
    ],
    ids=["another number", "another count", "another total", "a tensor twice"],
)
def test_parts_that_do_not_belong_together_are_refused(changes: dict[str, Any], words: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    write_parts(whole, folder, **changes)
    with pytest.raises(CheckpointError, match=words):
        open_model(folder)


def test_a_part_under_a_name_of_its_own_says_what_it_is(split: Path, tmp_path: Path) -> None:
    shutil.copy(split / name(0), tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="one of 3 parts of a split model, and its name does not say which"):
        open_model(tmp_path / "renamed.gguf")


def test_a_part_that_leads_out_of_the_folder_is_refused(split: Path, tmp_path: Path) -> None:
    (split / name(1)).rename(tmp_path / "elsewhere.gguf")
    (split / name(1)).symlink_to(tmp_path / "elsewhere.gguf")
    for path in (split, split / name(0)):
        with pytest.raises(CheckpointError, match="leads outside its folder"):
            open_model(path)


def test_a_file_of_a_folder_that_leads_out_of_it_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "x.gguf").symlink_to(whole)
    with pytest.raises(CheckpointError, match="leads outside its folder"):
        open_model(folder)


def test_more_parts_than_are_there_cost_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-99999.gguf"
    shutil.copy(whole, path)
    with pytest.raises(CheckpointError, match="part 2 of 99999"):
        open_model(path)
