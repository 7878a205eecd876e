"""Files of strangers are read within bounds, and what is written is whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_checkpoint_kit.digests import combined_digest, file_digest
from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_checkpoint_kit.folder import (
    MAX_JSON_VALUES,
    inside,
    read_config,
    read_json,
    read_json_if_there,
    read_small,
    tag_special_floats,
)
from llmasos_checkpoint_kit.mapped import map_file, view
from llmasos_checkpoint_kit.templates import chosen_template
from llmasos_checkpoint_kit.writing import write_json
from llmasos_hookspecs import CheckpointError


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", "a\\b", "a\0b", 3, "C:/x"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names"):
        inside(tmp_path, name)


def test_a_link_that_leads_out_is_refused_but_for_that_of_a_hugging_face_cache(tmp_path: Path) -> None:
    blob, snapshot = tmp_path / "blobs" / "0123", tmp_path / "snapshots" / "abc"
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True)
    blob.write_text("{}")
    (snapshot / "config.json").symlink_to(blob)
    assert read_json(inside(snapshot, "config.json")) == {}
    (tmp_path / "secret").write_text("{}")
    (snapshot / "other.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="link that leads outside"):
        inside(snapshot, "other.json")


def test_a_link_on_the_way_counts_as_one_and_the_folder_may_be_one(tmp_path: Path) -> None:
    """What it leads to need not be there; a name that no file system takes is one of ours to refuse."""
    folder = tmp_path / "models" / "m"
    (folder / "own").mkdir(parents=True)
    (folder / "there").symlink_to(folder / "own")
    (folder / "away").symlink_to(tmp_path)
    (folder / "gone").symlink_to(tmp_path / "nothing" / "here")
    (tmp_path / "link").symlink_to(folder)
    for name in ("own/config.json", "there/config.json", "no/such/file", "config.json"):
        assert inside(folder, name) == folder / name
        assert inside(tmp_path / "link", name) == tmp_path / "link" / name
    for name in ("away/config.json", "away/none/config.json", "gone"):
        with pytest.raises(CheckpointError, match="link that leads outside"):
            inside(folder, name)
    with pytest.raises(CheckpointError, match="cannot be followed"):
        inside(folder, "half a character \ud800")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no JSON object"),
        (b"[" + b"{}," * MAX_JSON_VALUES + b"{}]", "larger than any real"),
    ],
)
def test_json_that_is_none_or_blows_up_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_json(tmp_path / "x.json")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert read_small(tmp_path / "x", 3) == b"abc"
    with pytest.raises(CheckpointError, match="has 3 bytes, and at most 2"):
        read_small(tmp_path / "x", 2)
    assert read_json_if_there(tmp_path, "y.json") == {}


def test_floats_that_json_lacks_are_read_as_they_were_tagged(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", tag_special_floats({"a": [math.inf, -math.inf], "b": 1.5}))
    assert read_config(tmp_path / "config.json") == {"a": [math.inf, -math.inf], "b": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_mapped_file_cannot_be_written_to_and_is_seen_as_arrays(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "x").write_bytes(b"!" + values.tobytes())
    data = map_file(tmp_path / "x")
    found = view(data, 1, 25, np.float32, (2, 3))  # not aligned, so that it is a copy
    np.testing.assert_array_equal(found, values)
    for array in (data, found):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        map_file(tmp_path / "x")
    with pytest.raises(CheckpointError, match="does not exist"):
        map_file(tmp_path / "y")


def test_digests_of_files_and_of_several_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"1").hexdigest()
    both = combined_digest(tmp_path, ["b", "a", "a"])
    assert both == combined_digest(tmp_path, ["a", "b"]) != combined_digest(tmp_path, ["a"])
    seen: list[str] = []
    combined_digest(tmp_path, ["a", "b"], lambda path: seen.append(path.name) or "0")
    assert seen == ["a", "b"]
    (tmp_path / "a").rename(tmp_path / "c")
    assert combined_digest(tmp_path, ["c", "b"]) != both
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_digest(tmp_path / "a")


def test_a_config_with_a_value_of_the_wrong_kind_is_a_damaged_checkpoint() -> None:
    for config in ({"model_type": []}, {"model_type": "llama", "rope_scaling": 3}):
        with pytest.raises(CheckpointError):
            read_decoder(config, "m/config.json")


@pytest.mark.parametrize(
    ("found", "expected"), [(None, ()), (2, (2,)), ([2, 5], (2, 5)), (True, ()), (-1, ()), ([2, "x"], (2,)), ("2", ())]
)
def test_the_end_tokens_of_a_config(found: Any, expected: tuple[int, ...]) -> None:
    assert end_tokens({"eos_token_id": found}) == expected


@pytest.mark.parametrize(
    ("found", "check"),
    [
        ("{{ a }}", lambda text: text == "{{ a }}"),
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], lambda text: text == "D"),
        ({"tool_use": "T"}, lambda text: text == "T"),
        (
            {"a": "A", "b": "B"},
            lambda text: text.startswith('{{ raise_exception("there are the templates a, b, and none is called default'),
        ),
        (None, lambda text: text is None),
        (7, lambda text: text is None),
    ],
)
def test_the_template_that_is_chosen(found: Any, check: Callable[[Any], bool]) -> None:
    assert check(chosen_template(found))
