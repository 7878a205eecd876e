"""The files of a sealed model, decrypted in memory as they are read."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmasos_hookspecs import CheckpointError
from llmasos_seal.age import unwrap
from llmasos_seal.layout import CHUNK, TAG, Header, SealedFile, data_folder, file_cipher, nonce, read_header, read_manifest
from llmasos_seal.secrets import DataKey, forbid_core_dumps

#: Chunks that stay in the clear in memory. Loading SmolLM2 from GGUF on onnx decrypts 303 chunks with one, 144 with four, 128 with 32.
_KEPT: Final = 4


class SealedFiles:
    """Implements ``FileTree``. Each chunk that a read touches is read from the disk, held against the manifest's digest and decrypted, all
    on a copy in memory; the last few chunks stay, since the next tensor begins in one, and loaders ask for a tensor more than once.

    Args:
        folder: the sealed model.
        identity: what opens it: see ``unwrap``.

    Raises:
        CheckpointError: it is damaged, or sealed for others.
        RequestError: the identity cannot be read.
    """

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        forbid_core_dumps()
        self.folder = folder
        self.header: Header = read_header(folder)
        secret = unwrap(self.header.wrapped, identity, folder)
        if len(secret) != 32:
            raise CheckpointError(f"{folder} has a key of {len(secret)} bytes, and 32 are used; get the model again.")
        self.key = DataKey(secret)
        self.files: Mapping[str, SealedFile]
        self.files, stored = read_manifest(folder, self.header, self.key)
        self.sizes: Mapping[str, int] = MappingProxyType({name: file.size for name, file in self.files.items()})
        #: SHA-256 of the encrypted manifest, which determines all files, and tells nothing of them.
        self.digest = hashlib.sha256(stored).hexdigest()
        self._ciphers: dict[str, AESGCM] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], npt.NDArray[np.uint8]] = OrderedDict()

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        file = self.files[name]
        found = np.empty(stop - start, dtype=np.uint8)
        place = start
        while place < stop:
            index, offset = divmod(place, CHUNK)
            taken = min(file.chunk_bytes(index) - offset, stop - place)
            found[place - start : place - start + taken] = self._chunk(file, index)[offset : offset + taken]
            place += taken
        found.flags.writeable = False
        return found

    def sha256(self, name: str) -> str:
        return self.files[name].sha256

    def pseudonym(self, digest: str) -> str:
        return hmac.new(self._memory_key, digest.encode(), hashlib.sha256).hexdigest()

    def verify(self) -> None:
        """Read all files. Raises ``CheckpointError`` where one is not what was sealed."""
        for file in self.files.values():
            whole = hashlib.sha256()
            for index in range(file.count):
                whole.update(self.read(file.name, index * CHUNK, index * CHUNK + file.chunk_bytes(index)).data)
            if whole.hexdigest() != file.sha256:
                raise CheckpointError(f"{self.folder} holds {file.name} with other bytes than its manifest says; get the model again.")

    @cached_property
    def _memory_key(self) -> bytes:
        return self.key.derived(self.header.number, "remembered")

    def _chunk(self, file: SealedFile, index: int) -> npt.NDArray[np.uint8]:
        """One chunk in the clear."""
        key = (file.name, index)
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        plain = np.empty(file.chunk_bytes(index), dtype=np.uint8)
        self._decrypt(file, index, plain.data)
        with self._lock:
            self._kept[key] = plain
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return plain

    def _decrypt(self, file: SealedFile, index: int, target: memoryview) -> None:
        """Read, check and decrypt one chunk."""
        path = data_folder(self.folder, self.header.number) / file.stored
        try:
            with path.open("rb", buffering=0) as opened:
                opened.seek(index * (CHUNK + TAG))
                sealed = opened.read(len(target) + TAG)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions.") from error
        cipher = self._ciphers.get(file.name)
        if cipher is None:
            cipher = self._ciphers[file.name] = file_cipher(self.key, self.header.number, file.name)
        changed = CheckpointError(
            f"{path} was changed since it was sealed: chunk {index + 1} of {file.count} is not what its manifest says; get the model again."
        )
        if hashlib.sha256(sealed).digest() != file.digest(index):
            raise changed
        try:
            cipher.decrypt_into(nonce(index), sealed, file.associated(index), target)
        except (InvalidTag, ValueError):  # a recipient, who has the key, wrote another manifest
            raise changed from None
