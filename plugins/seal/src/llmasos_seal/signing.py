"""Ed25519 signatures (RFC 8032) of sealed models."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from llmasos_checkpoint_kit.folder import read_small
from llmasos_hookspecs import CheckpointError, RequestError

T = TypeVar("T")

_PREFIX: Final = "ed25519:"


def new_signing_key() -> tuple[str, str]:
    """The text of a new key's file, PEM with the public key above it, and the public key."""
    key = Ed25519PrivateKey.generate()
    public = public_text(key)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return f"# public key: {public}\n{pem}", public


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file. Raises ``RequestError``."""
    cure = "llmasos models keygen --signing FILE makes one"
    key = read_pem(path, lambda data: load_pem_private_key(data, None), "PEM key", cure)
    if not isinstance(key, Ed25519PrivateKey):
        raise RequestError(f"{path} holds a key of another kind than Ed25519; {cure}.")
    return key


def read_pem(path: Path, load: Callable[[bytes], T], what: str, cure: str) -> T:
    """What ``load`` makes of a PEM file. Raises ``RequestError``, which says ``what`` the file does not hold, and the ``cure``."""
    try:
        return load(read_small(path, 1 << 20))
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(f"{path} holds no {what} without a passphrase; {cure}.") from error


def public_text(key: Ed25519PrivateKey) -> str:
    """The public key as config has it: ``ed25519:`` and its 32 bytes in base64."""
    return _PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def is_signed(public: str, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is one of ``message`` by the key ``public``."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix(_PREFIX), validate=True))
        key.verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return public.startswith(_PREFIX)
