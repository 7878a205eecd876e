"""Files appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmasos_hookspecs.atomic import flush, write_atomically


@pytest.mark.parametrize("data", ["中文", "中文".encode(), ["中".encode(), "文".encode()]])
def test_a_file_is_written_whole_and_replaces_an_older_one(tmp_path: Path, data: str | bytes | list[bytes]) -> None:
    """Text, bytes, or parts of them."""
    path = tmp_path / "file"
    path.write_text("an older and longer text", encoding="utf-8")
    write_atomically(path, data)
    assert path.read_text(encoding="utf-8") == "中文"


def test_a_file_that_cannot_be_written_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    """The parts may fail in the middle."""

    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the source is gone")

    path = tmp_path / "file"
    path.write_text("older", encoding="utf-8")
    with pytest.raises(OSError, match="the source is gone"):
        write_atomically(path, parts())
    assert path.read_text(encoding="utf-8") == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_and_a_file_are_flushed(tmp_path: Path) -> None:
    """Both kinds can be written through to the disk; what is not there is an error."""
    (tmp_path / "file").write_bytes(b"x")
    flush(tmp_path / "file")
    flush(tmp_path)
    with pytest.raises(OSError, match="missing"):
        flush(tmp_path / "missing")


def test_two_that_write_one_file_at_once_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary name is nobody else's, so that the other's end does not take it away."""
    path, seen = tmp_path / "file", list[str]()
    replace = Path.replace

    def meanwhile(self: Path, target: Path) -> Path:
        if not seen:
            seen.append(self.name)
            write_atomically(path, "second")
        seen.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    write_atomically(path, "first", mode=0o600)
    assert path.read_text() == "first"
    assert len(set(seen)) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["file"]
