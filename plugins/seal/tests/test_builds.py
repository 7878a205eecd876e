"""What loaders built of a sealed model is kept encrypted, and given back only as it was kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmasos_seal.builds import SealedBuilds
from llmasos_seal.layout import CHUNK
from llmasos_seal.reading import SealedFiles

PARTS: dict[str, npt.NDArray[np.uint8]] = {
    "secret name": np.frombuffer(b"secret contents", dtype=np.uint8),
    "empty": np.empty(0, dtype=np.uint8),
    "long": np.arange(2 * CHUNK + 5, dtype=np.uint32).astype(np.uint8),
}


@pytest.fixture
def builds(sealed: Path, keys: object, tmp_path: Path) -> SealedBuilds:
    return SealedBuilds(tmp_path / "cache", SealedFiles(sealed, keys.identity))  # type: ignore[attr-defined]  # Keys, of conftest


def stored(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").glob("*/build.bin")
    return found


def test_parts_come_back_as_they_were_kept(builds: SealedBuilds, tmp_path: Path) -> None:
    """Of the same key alone; a second build under a key takes the first one's place, and nothing of them lies on the disk in the clear."""
    assert builds.get("key") is None
    for parts in ({"other": PARTS["long"]}, PARTS):
        builds.put("key", parts)
        found = builds.get("key")
        assert found is not None
        assert {name: part.tobytes() for name, part in found.items()} == {name: part.tobytes() for name, part in parts.items()}
    assert builds.get("other") is None
    data = stored(tmp_path).read_bytes()
    assert not any(word in data for word in (b"secret", b"long", PARTS["long"][:32].tobytes()))
    assert "key" not in str(stored(tmp_path))


@pytest.mark.parametrize("place", [0, 17, 40, 300, CHUNK, 2 * CHUNK + 100, -1])
def test_a_changed_build_is_not_given(builds: SealedBuilds, tmp_path: Path, place: int) -> None:
    """One bit in the random bytes, the length, the index, a chunk or a tag; and a file that was cut there."""
    builds.put("key", PARTS)
    data = bytearray(stored(tmp_path).read_bytes())
    data[place] ^= 1
    stored(tmp_path).write_bytes(data)
    assert builds.get("key") is None
    data[place] ^= 1
    stored(tmp_path).write_bytes(data[:place])
    assert builds.get("key") is None
    stored(tmp_path).write_bytes(data)
    assert builds.get("key") is not None


def test_where_nothing_can_be_kept_nothing_is(builds: SealedBuilds, tmp_path: Path) -> None:
    """A load goes on without; and what a killed process left half-written goes with the next build."""
    (tmp_path / "cache").write_text("a file in the folder's place")
    builds.put("key", PARTS)
    assert builds.get("key") is None
    (tmp_path / "cache").unlink()
    builds.put("key", PARTS)
    left = stored(tmp_path).with_name(".build.bin.partial-0")
    left.write_bytes(b"half")
    builds.put("key", PARTS)
    assert not left.exists()
