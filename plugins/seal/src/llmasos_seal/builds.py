"""What loaders built of a sealed model, kept encrypted, so that the next load need not build it again.

    KEY/build.bin   16 random bytes; the length of the index (8 bytes, little-endian) and the index, encrypted; and the parts, one after the
                    other, each in chunks of 1 MiB and a tag of 16 bytes
    KEY/of.json     the sealed folder, which is no secret: by it the build is removed with its model

Keys are derived from the model's data key and the 16 bytes; a key meets each nonce once, because the bytes are new in each file. A build
is not signed: who has the data key, and can write into the user's cache, can put another in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmasos_hookspecs.atomic import write_atomically
from llmasos_seal.layout import CHUNK, TAG, nonce
from llmasos_seal.reading import SealedFiles

_FILE: Final = "build.bin"
_OF: Final = "of.json"
_SALT: Final = 16
_LARGEST_INDEX: Final = 256 << 20

Parts = Mapping[str, npt.NDArray[np.uint8]]


class SealedBuilds:
    """Implements ``SealedBuilds`` of the contract for one sealed model.

    Args:
        cache: the folder that holds the builds of all sealed models.
        files: the model's.
    """

    def __init__(self, cache: Path, files: SealedFiles) -> None:
        self._cache = cache
        self._files = files

    def get(self, key: str) -> Parts | None:
        try:
            with (self._folder(key) / _FILE).open("rb", buffering=0) as file:
                found = self._read(file)
            os.utime(self._folder(key) / _OF)
        except (OSError, ValueError, KeyError, TypeError, InvalidTag):  # not there, cut or changed: it is built again
            return None
        return found

    def put(self, key: str, parts: Parts) -> None:
        folder = self._folder(key)
        with contextlib.suppress(OSError):  # a full disk, say: it is built again next time
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".*"):  # of a process that was killed
                left.unlink(missing_ok=True)
            write_atomically(folder / _OF, json.dumps({"paths": [str(self._files.folder.resolve())]}))
            write_atomically(folder / _FILE, self._sealed(parts), mode=0o600)

    def _folder(self, key: str) -> Path:
        return self._cache / self._files.pseudonym(key)[:32]

    def _ciphers(self, salt: bytes) -> tuple[AESGCM, AESGCM]:
        """That of the index, and that of the parts."""
        return AESGCM(self._files.key.derived(salt, "build index")), AESGCM(self._files.key.derived(salt, "build"))

    def _sealed(self, parts: Parts) -> Iterator[bytes]:
        salt = os.urandom(_SALT)
        of_index, cipher = self._ciphers(salt)
        index = of_index.encrypt(nonce(0), json.dumps([[name, part.nbytes] for name, part in parts.items()]).encode(), None)
        yield salt + len(index).to_bytes(8, "little") + index
        place = 0
        for part in parts.values():
            data = part.data
            for start in range(0, part.nbytes, CHUNK):
                yield cipher.encrypt(nonce(place), data[start : start + CHUNK], None)
                place += 1

    def _read(self, file: BinaryIO) -> Parts:
        salt = _exactly(file, _SALT)
        of_index, cipher = self._ciphers(salt)
        length = int.from_bytes(_exactly(file, 8), "little")
        if length > _LARGEST_INDEX:
            raise ValueError("no index")
        listed: Sequence[Any] = json.loads(of_index.decrypt(nonce(0), _exactly(file, length), None))
        found = {}
        sealed = memoryview(bytearray(CHUNK + TAG))
        place = 0
        for name, size in listed:
            found[name] = plain = np.empty(size, dtype=np.uint8)
            for start in range(0, size, CHUNK):
                target = plain.data[start : start + CHUNK]
                read = sealed[: len(target) + TAG]
                if file.readinto(read) != len(read):  # type: ignore[attr-defined]  # a raw file has it
                    raise ValueError("cut")
                cipher.decrypt_into(nonce(place), read, None, target)
                place += 1
        return found


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("cut")
    return data
