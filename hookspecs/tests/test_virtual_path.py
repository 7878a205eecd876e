"""Files that are no plain files of the system are read by the methods of pathlib, and refused to whatever asks for a plain one."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs import UnsupportedModel, VirtualPath, virtual_folder

FILES = {"config.json": b'{"a": 1}\n', "weights/one.bin": bytes(range(200)), "weights/deep/two.bin": b"two", "empty.txt": b""}


class Held:
    """A ``FileTree`` in memory, which tells what was read."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int, int]] = []

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in FILES.items()}

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        self.reads.append((name, start, stop))
        return np.frombuffer(FILES[name][start:stop], dtype=np.uint8).copy()

    def sha256(self, name: str) -> str:
        return hashlib.sha256(FILES[name]).hexdigest()

    def pseudonym(self, digest: str) -> str:
        return hashlib.sha256(b"secret" + digest.encode()).hexdigest()


@pytest.fixture
def tree() -> Held:
    return Held()


@pytest.fixture
def folder(tree: Held, tmp_path: Path) -> VirtualPath:
    return virtual_folder(tmp_path / "model", tree)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The same files, as plain ones."""
    for name, data in FILES.items():
        path = tmp_path / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "plain"


def test_paths_answer_as_those_of_plain_files_do(folder: VirtualPath, plain: Path) -> None:
    """For files, folders and what is not there."""
    for name in (".", "config.json", "weights", "weights/one.bin", "weights/deep", "none", "weights/none", "config.json/x", "empty.txt"):
        ours, theirs = folder / name, plain / name
        assert (ours.exists(), ours.is_file(), ours.is_dir()) == (theirs.exists(), theirs.is_file(), theirs.is_dir()), name
        if theirs.is_file():
            assert ours.stat().st_size == theirs.stat().st_size
            assert ours.read_bytes() == theirs.read_bytes()
        if theirs.is_dir():
            assert sorted(each.name for each in ours.iterdir()) == sorted(each.name for each in theirs.iterdir())
    for pattern in ("*", "*.bin", "*.json", "weights/*", "*/*.bin", "none*"):
        for how in ("glob", "rglob"):
            found = sorted(path.relative_to(folder).as_posix() for path in getattr(folder, how)(pattern))
            assert found == sorted(path.relative_to(plain).as_posix() for path in getattr(plain, how)(pattern)), (how, pattern)
    assert folder.joinpath("config.json").read_text(encoding="utf-8") == '{"a": 1}\n'
    assert folder.resolve() == folder.absolute() == folder
    assert not folder.is_symlink()


def test_paths_of_paths_stay_in_the_tree(folder: VirtualPath) -> None:
    """A path outside of it is one of nothing."""
    assert (folder / "weights" / "one.bin").parent.parent == folder
    assert (folder / "config.json").with_name("empty.txt").is_file()
    assert not folder.parent.exists()
    assert not (folder.parent / "plain").exists()
    other = virtual_folder(Path("elsewhere"), Held())
    assert type(other) is not type(folder)
    assert str(other) == str(Path.cwd() / "elsewhere")


def test_a_slice_reads_those_bytes_alone(folder: VirtualPath, tree: Held) -> None:
    file = (folder / "weights" / "one.bin").mapped()
    assert file.size == 200
    assert tree.reads == []
    assert file[10:20].tolist() == list(range(10, 20))
    assert file[190:500].tolist() == list(range(190, 200))
    assert file[300:400].size == 0
    assert tree.reads[:2] == [("weights/one.bin", 10, 20), ("weights/one.bin", 190, 200)]
    with pytest.raises(ValueError, match="in their order"):
        file[::2]


def test_a_file_is_read_piece_by_piece_and_from_anywhere(folder: VirtualPath, plain: Path) -> None:
    """As a buffered, a plain and a text file; none is written."""
    with (folder / "weights/one.bin").open("rb") as ours, (plain / "weights/one.bin").open("rb") as theirs:
        for offset, whence, count in ((5, io.SEEK_SET, 7), (3, io.SEEK_CUR, 2), (-4, io.SEEK_END, 10), (0, io.SEEK_SET, -1)):
            assert (ours.seek(offset, whence), ours.read(count)) == (theirs.seek(offset, whence), theirs.read(count))
    with (folder / "config.json").open("rb", buffering=0) as raw, pytest.raises(OSError, match="Invalid"):
        raw.seek(-1)
    with (folder / "config.json").open() as text:
        assert text.readline() == '{"a": 1}\n'
    for mode in ("w", "ab", "r+"):
        with pytest.raises(OSError, match="Read-only"):
            (folder / "config.json").open(mode)


def test_what_is_not_there_is_told_as_the_system_does(folder: VirtualPath) -> None:
    for ask in (lambda path: path.stat(), lambda path: path.open("rb"), lambda path: path.sha256(), lambda path: path.read_bytes()):
        with pytest.raises(FileNotFoundError) as raised:
            ask(folder / "none")
        assert raised.value.filename == str(folder / "none")
    with pytest.raises(NotADirectoryError):
        list((folder / "config.json").iterdir())


def test_what_asks_the_system_for_a_plain_file_is_refused(folder: VirtualPath) -> None:
    """A library that opens files itself, and everything that would change one."""
    path = folder / "config.json"
    for ask in (open, os.stat, os.fspath, np.memmap, os.unlink, lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        with pytest.raises((UnsupportedModel, OSError), match=r"is not kept as a plain file|Read-only"):
            ask(path)


def test_digests_are_those_of_the_tree(folder: VirtualPath) -> None:
    """What may be remembered is another one."""
    digest = (folder / "config.json").sha256()
    assert digest == hashlib.sha256(FILES["config.json"]).hexdigest()
    assert folder.pseudonym(digest) != digest
