"""What the tests of sealed models share: keys, a tiny model, and files of several chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from llmasos_seal.age import Recipients, new_identity
from llmasos_seal.layout import CHUNK
from llmasos_seal.signing import new_signing_key, read_signing_key
from llmasos_seal.writing import seal


@attrs.frozen
class Keys:
    """An identity's file and public key."""

    identity: str
    public: str


@pytest.fixture(scope="module")
def make_keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Keys]:
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> Keys:
        text, public = new_identity()
        (folder / name).write_text(text)
        return Keys(str(folder / name), public)

    return make


@pytest.fixture(scope="module")
def keys(make_keys: Callable[[str], Keys]) -> Keys:
    return make_keys("ours")


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Ed25519PrivateKey:
    path = tmp_path_factory.mktemp("signing") / "key.pem"
    path.write_text(new_signing_key()[0])
    return read_signing_key(path)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Name -> contents: of no byte, of less than a chunk, of exactly two, and of more than three."""
    rng = np.random.default_rng(5)
    sizes = {"empty.txt": 0, "config.json": 700, "folder/even.bin": 2 * CHUNK, "odd.bin": 3 * CHUNK + 12_345}
    return {name: rng.bytes(size) for name, size in sizes.items()}


@pytest.fixture
def sealed(tmp_path: Path, keys: Keys, signing: Ed25519PrivateKey, contents: dict[str, bytes]) -> Path:
    """Those files, sealed and signed."""
    sources = {}
    for name, data in contents.items():
        sources[name] = tmp_path / "plain" / name
        sources[name].parent.mkdir(parents=True, exist_ok=True)
        sources[name].write_bytes(data)
    folder = tmp_path / "sealed"
    folder.mkdir()
    seal(sources, folder, Recipients.of([keys.public]), signing)
    return folder
