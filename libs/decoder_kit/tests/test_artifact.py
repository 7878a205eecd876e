"""What is built is kept, and built again where it is damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmasos_decoder_kit.artifact import obtain


def write_weights(content: bytes, builds: list[Path]):
    """A build that writes one file, and remembers that it ran."""

    def build(folder: Path) -> dict[str, int]:
        builds.append(folder)
        (folder / "weights").write_bytes(content)
        return {"size": len(content)}

    return build


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "index"])
def test_a_damaged_folder_is_built_again(tmp_path: Path, damage: str) -> None:
    """A file that is not as it was written, or an index that cannot be read, is never used."""
    builds: list[Path] = []
    build = write_weights(bytes(1000), builds)
    folder, _ = obtain(tmp_path, "key", build)
    assert obtain(tmp_path, "key", build)[0] == folder
    assert len(builds) == 1
    if damage == "shorter":
        (folder / "weights").write_bytes(bytes(10))
    elif damage == "changed":
        (folder / "weights").write_bytes(bytes(500) + b"1" + bytes(499))
    elif damage == "missing":
        (folder / "weights").unlink()
    else:
        next(path for path in folder.iterdir() if path.name != "weights").write_text("{", encoding="utf-8")
    folder, built = obtain(tmp_path, "key", build)
    assert len(builds) == 2
    assert built == {"size": 1000}
    assert (folder / "weights").read_bytes() == bytes(1000)


def test_of_several_at_once_one_builds(tmp_path: Path) -> None:
    """The others wait, and find what it made."""
    builds: list[Path] = []
    threads = [threading.Thread(target=obtain, args=(tmp_path, "key", write_weights(b"x", builds))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Nothing half-written stays, and the next build starts anew."""

    def fail(folder: Path) -> dict[str, int]:
        (folder / "weights").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        obtain(tmp_path, "key", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert obtain(tmp_path, "key", write_weights(b"x", []))[1] == {"size": 1}
