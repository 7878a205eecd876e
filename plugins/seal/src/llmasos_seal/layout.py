"""What a sealed model is on disk: a header, and in a folder of the header's number an encrypted manifest and encrypted files.

    llmasos.seal         JSON: the number of this sealing, the data key wrapped for each recipient, and a signature
    NUMBER/manifest.bin  a nonce of 12 bytes, and AES-256-GCM of JSON: names, sizes and digests of all files
    NUMBER/0000.bin ...  the files, in chunks of 1 MiB and a tag of 16 bytes each

The key of a file is derived from the data key by HKDF with the number as salt and the file's name as purpose; the nonce of a chunk is its
index, which a key never meets twice, because a file is never written again under the same number. GCM alone would let a recipient, who has
the key, put other chunks in their place: the manifest has the SHA-256 of each, and the signature covers the manifest. The wrapped keys are
not covered, so that other recipients can be given a model that somebody else signed; exchanging them can only make it unreadable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmasos_checkpoint_kit.folder import parse_json, read_small
from llmasos_hookspecs import CheckpointError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_seal import HEADER
from llmasos_seal.secrets import DataKey
from llmasos_seal.signing import is_signed

FORMAT: Final = 1
CHUNK: Final = 1 << 20
TAG: Final = 16
NONCE: Final = 12
MANIFEST: Final = "manifest.bin"
_DIGEST: Final = 32
_MOST_KEYS: Final = 100
_LARGEST_MANIFEST: Final = 16 << 20


@attrs.frozen(kw_only=True)
class Header:
    """The contents of ``llmasos.seal``.

    Attributes:
        number: 16 random bytes, new each time that files are encrypted.
        wrapped: the data key, encrypted by age.
        signer: public key of who signed the manifest; None: nobody did.
        signature: of ``signed_bytes``.
    """

    number: bytes
    wrapped: tuple[bytes, ...]
    signer: str | None = None
    signature: bytes = b""

    def to_bytes(self) -> bytes:
        found: dict[str, Any] = {
            "format": FORMAT,
            "number": self.number.hex(),
            "keys": [base64.b64encode(each).decode() for each in self.wrapped],
        }
        if self.signer is not None:
            found["signature"] = {"key": self.signer, "value": base64.b64encode(self.signature).decode()}
        return (json.dumps(found, indent=2) + "\n").encode()


@attrs.frozen(kw_only=True)
class SealedFile:
    """One file of a sealed model.

    Attributes:
        name: relative, with ``/`` between folder and file.
        size: bytes in the clear.
        sha256: hexadecimal digest of the file in the clear.
        stored: name of the encrypted file.
        chunks: SHA-256 of each encrypted chunk, one after the other.
    """

    name: str
    size: int
    sha256: str
    stored: str
    chunks: bytes

    @property
    def count(self) -> int:
        """Chunks of the file."""
        return math.ceil(self.size / CHUNK)

    def chunk_bytes(self, index: int) -> int:
        """Bytes of one chunk in the clear."""
        return min(CHUNK, self.size - index * CHUNK)

    def associated(self, index: int) -> bytes:
        """What is authenticated with a chunk."""
        return associated(self.name, self.size, index, self.count)

    def digest(self, index: int) -> bytes:
        """SHA-256 of one encrypted chunk."""
        return self.chunks[index * _DIGEST : (index + 1) * _DIGEST]


def associated(name: str, size: int, index: int, count: int) -> bytes:
    """What is authenticated with chunk ``index`` of ``count`` of a file of ``size`` bytes in the clear."""
    encoded = name.encode()
    return struct.pack("<I", len(encoded)) + encoded + struct.pack("<QQQ", size, index, count)


def nonce(index: int) -> bytes:
    """The nonce of a chunk."""
    return index.to_bytes(NONCE, "little")


def file_cipher(key: DataKey, number: bytes, name: str) -> AESGCM:
    """What encrypts and decrypts the chunks of one file."""
    return AESGCM(key.derived(number, f"file {name}"))


def signed_bytes(number: bytes, manifest: bytes) -> bytes:
    """What a signature covers: the number, and the manifest as it is stored."""
    return b"llmasos seal 1\0" + number + hashlib.sha256(manifest).digest()


def data_folder(folder: Path, number: bytes) -> Path:
    """Where the files of a sealing are."""
    return folder / number.hex()


def write_header(folder: Path, header: Header) -> None:
    """Write ``llmasos.seal``, whole or not at all."""
    write_atomically(folder / HEADER, header.to_bytes())


def read_header(folder: Path) -> Header:
    """Raises ``CheckpointError`` where the header is damaged, or of a newer form."""
    path = folder / HEADER
    data = read_small(path)
    found = parse_json(data, str(path))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object; get the model again.")
    if found.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {str(found.get('format'))[:20]!r}, and {FORMAT} is read; update llmasos-seal.")
    try:
        header = _header(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        header = None
    if header is None or header.to_bytes() != data:  # so that there is one way to write a header, and every bit of it counts
        raise CheckpointError(f"{path} is damaged: it has no number, keys and signature of the right form; get the model again.")
    return header


def _header(found: Mapping[str, Any]) -> Header:
    signature = found.get("signature")
    signer, value = (None, "") if signature is None else (signature["key"], signature["value"])
    number = bytes.fromhex(found["number"])
    wrapped = tuple(base64.b64decode(each, validate=True) for each in found["keys"])
    if not isinstance(signer, str | None) or len(number) != 16 or not 0 < len(wrapped) <= _MOST_KEYS:
        raise ValueError("no header")
    return Header(number=number, wrapped=wrapped, signer=signer, signature=base64.b64decode(value, validate=True))


def write_manifest(folder: Path, header: Header, key: DataKey, files: Mapping[str, SealedFile]) -> bytes:
    """Encrypt and write the manifest; returns it as it is stored."""
    listed = [{**attrs.asdict(file), "chunks": base64.b64encode(file.chunks).decode()} for file in files.values()]
    fresh = os.urandom(NONCE)
    cipher = AESGCM(key.derived(header.number, "manifest"))
    stored = fresh + cipher.encrypt(fresh, json.dumps({"files": listed}).encode(), header.number)
    write_atomically(data_folder(folder, header.number) / MANIFEST, stored, mode=0o644)
    return stored


def read_manifest(folder: Path, header: Header, key: DataKey) -> tuple[dict[str, SealedFile], bytes]:
    """The files of a sealed model by name, and the manifest as it is stored.

    Raises:
        CheckpointError: it is not what was signed or written, or names what no model can hold.
    """
    path = data_folder(folder, header.number) / MANIFEST
    stored = read_small(path, _LARGEST_MANIFEST)
    if header.signer is not None and not is_signed(header.signer, header.signature, signed_bytes(header.number, stored)):
        raise CheckpointError(f"{folder} is not what {header.signer[:80]} signed: its manifest was changed; get the model again.")
    try:
        plain = AESGCM(key.derived(header.number, "manifest")).decrypt(stored[:NONCE], stored[NONCE:], header.number)
    except (InvalidTag, ValueError) as error:
        raise CheckpointError(f"{path} was changed since it was sealed; get the model again.") from error
    listed = parse_json(plain, f"The manifest of {folder}")
    try:
        files = {file.name: file for file in map(_file, listed["files"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} does not describe files; get the model again.") from error
    for file in files.values():
        _check_place(folder, header, file)
    return files, stored


def _file(entry: Mapping[str, Any]) -> SealedFile:
    found = SealedFile(
        name=entry["name"],
        size=entry["size"],
        sha256=entry["sha256"],
        stored=entry["stored"],
        chunks=base64.b64decode(entry["chunks"], validate=True),
    )
    parts = PurePosixPath(found.name).parts
    plain = parts and not found.name.startswith("/") and ".." not in parts and not set(found.name) & set('\\:\0"*?<>|')
    if not plain or "/".join(parts) != found.name or not found.stored.removesuffix(".bin").isdigit():
        raise ValueError("a name leads elsewhere")
    if type(found.size) is not int or found.size < 0 or len(found.chunks) != found.count * _DIGEST:
        raise ValueError("the chunks do not fit the size")
    if len(bytes.fromhex(found.sha256)) != _DIGEST:
        raise ValueError("no SHA-256")
    return found


def _check_place(folder: Path, header: Header, file: SealedFile) -> None:
    path = data_folder(folder, header.number) / file.stored
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); get the model again.") from error
    if size != (whole := file.size + file.count * TAG):
        raise CheckpointError(f"{path} has {size} bytes, and {whole} were sealed; get the model again.")
