"""Digests are enforced at load: once while the files stay as they are, and again when anything about them changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmasos.system.sources import resolve
from llmasos_hookspecs import SourceError
from llmasos_model_store import digests
from llmasos_model_store.digests import file_digest, remember_digest
from llmasos_model_store.store import Store

BIG = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just started."""
    monkeypatch.setattr(digests, "_known", {})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are read for their digest."""
    found: list[str] = []
    whole = hashlib.file_digest

    def digest(file, algorithm):
        found.append(Path(file.name).name)
        return whole(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    return found


def stored(store: Store) -> Path:
    return store.add("some:model", lambda folder: (folder / "w.gguf").write_bytes(b"GGUF" + BIG), source="tests")


def flip(path: Path, at: int = 1000) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_in_a_stored_model_is_noticed_when_it_is_asked_for(store):
    path = stored(store) / "w.gguf"
    assert resolve(str(path), store=store).path == path
    flip(path)
    with pytest.raises(SourceError, match=r'w\.gguf of the stored model "some:model" is damaged; llmasos models remove some:model'):
        resolve(str(path), store=store)


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 100), Path.unlink])
def test_a_stored_model_that_was_cut_is_refused_before_it_is_mapped(store, damage):
    path = stored(store)
    damage(path / "w.gguf")
    with pytest.raises(SourceError, match="of the stored model"):
        resolve(f"{path}/", store=store)


def test_a_stored_model_is_read_no_more_than_once(store, reads, fresh):
    path = stored(store)
    assert reads == ["w.gguf"]  # while it was stored
    store.check(path)
    digests._known.clear()
    store.check(path)
    assert reads == ["w.gguf"]
    os.utime(path / "w.gguf")
    digests._known.clear()
    store.check(path)
    assert reads == ["w.gguf", "w.gguf"]


def test_what_lies_outside_the_store_is_not_the_stores_to_check(store, tmp_path):
    store.check(tmp_path / "elsewhere")


def test_a_digest_is_kept_for_the_user_alone_and_only_of_large_files(tmp_path, home, fresh):
    (tmp_path / "big").write_bytes(BIG)
    (tmp_path / "small").write_bytes(b"small")
    assert file_digest(tmp_path / "big") == hashlib.sha256(BIG).hexdigest()
    assert file_digest(tmp_path / "small") == hashlib.sha256(b"small").hexdigest()
    (kept,) = (home / "cache" / "checked" / "digests").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "0" * 63, "é" * 64, "\0" * 10])
def test_a_damaged_memory_of_a_digest_costs_reading_the_file_again(tmp_path, home, fresh, text):
    (tmp_path / "big").write_bytes(BIG)
    expected = file_digest(tmp_path / "big")
    (kept,) = (home / "cache" / "checked" / "digests").iterdir()
    kept.write_text(text)
    digests._known.clear()
    assert file_digest(tmp_path / "big") == expected


def test_a_remembered_digest_is_of_the_file_as_it_is(tmp_path, home, fresh):
    path = tmp_path / "big"
    path.write_bytes(BIG)
    remember_digest(path, "f" * 64)
    assert file_digest(path) == "f" * 64
    flip(path)
    assert file_digest(path) != "f" * 64


def test_the_memory_of_digests_has_a_bound(tmp_path, home, fresh, monkeypatch):
    monkeypatch.setattr(digests, "_MOST", 4)
    for number in range(9):
        path = tmp_path / str(number)
        path.write_bytes(BIG)
        file_digest(path)
    assert len(list((home / "cache" / "checked" / "digests").iterdir())) <= 4
