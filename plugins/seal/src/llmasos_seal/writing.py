"""Encrypts files into a sealed model, and wraps its key for others."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from llmasos_hookspecs import CheckpointError
from llmasos_seal.age import Recipients
from llmasos_seal.layout import (
    CHUNK,
    Header,
    SealedFile,
    associated,
    data_folder,
    file_cipher,
    nonce,
    signed_bytes,
    write_header,
    write_manifest,
)
from llmasos_seal.secrets import DataKey
from llmasos_seal.signing import public_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def seal(
    sources: Mapping[str, Path],
    folder: Path,
    recipients: Recipients,
    signing: Ed25519PrivateKey | None,
    advance: Callable[[int], None] = lambda _: None,
) -> Header:
    """Encrypt files into ``folder``, which is there, under a new data key; what it held as a sealed model is removed at the end.

    Args:
        sources: name -> the file to read, of any class of paths.
        recipients: who can open it.
        signing: the key to sign with; None: it is not signed.
        advance: told of each number of bytes that are done.

    Raises:
        CheckpointError: a file cannot be read, or changes meanwhile.
        OSError: nothing can be written.
    """
    key, number = DataKey.new(), os.urandom(16)
    header = Header(number=number, wrapped=tuple(recipients.wrap(key.secret)))
    place = data_folder(folder, number)
    place.mkdir()
    try:
        files = {
            name: _seal_file(name, path, place / f"{index:04}.bin", key, number, advance)
            for index, (name, path) in enumerate(sorted(sources.items()))
        }
        stored = write_manifest(folder, header, key, files)
        if signing is not None:
            signature = signing.sign(signed_bytes(number, stored))
            header = attrs.evolve(header, signer=public_text(signing), signature=signature)
        write_header(folder, header)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    for other in _sealings(folder):
        if other.name != number.hex():
            shutil.rmtree(other, ignore_errors=True)
    return header


def rewrap(folder: Path, header: Header, key: DataKey, recipients: Recipients) -> None:
    """Let ``recipients``, and nobody else, open a sealed model from now on. No file but the header is written."""
    write_header(folder, attrs.evolve(header, wrapped=tuple(recipients.wrap(key.secret))))


def _sealings(folder: Path) -> Iterable[Path]:
    """The folders of files below ``folder`` that sealings wrote."""
    return [path for path in folder.iterdir() if len(path.name) == 32 and not set(path.name) - set("0123456789abcdef") and path.is_dir()]


def _seal_file(name: str, source: Path, target: Path, key: DataKey, number: bytes, advance: Callable[[int], None]) -> SealedFile:
    cipher, whole, chunks = file_cipher(key, number, name), hashlib.sha256(), []
    try:
        size = source.stat().st_size
        with source.open("rb") as opened, target.open("xb") as out:
            count = -(-size // CHUNK)
            for index in range(count):
                plain = _exactly(opened, min(CHUNK, size - index * CHUNK), source)
                sealed = cipher.encrypt(nonce(index), plain, associated(name, size, index, count))
                whole.update(plain)
                chunks.append(hashlib.sha256(sealed).digest())
                out.write(sealed)
                advance(len(plain))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        if error.filename is None or str(error.filename) != str(source):
            raise
        raise CheckpointError(f"{source} cannot be read ({error.strerror or error}); check the file and its permissions.") from error
    return SealedFile(name=name, size=size, sha256=whole.hexdigest(), stored=target.name, chunks=b"".join(chunks))


def _exactly(file: BinaryIO, count: int, source: Path) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise CheckpointError(f"{source} became shorter while it was sealed; seal it again.")
    return data
