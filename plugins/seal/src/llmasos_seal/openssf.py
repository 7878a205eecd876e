"""Signatures of plain models in the format of OpenSSF `model-signing` 1.0: a Sigstore bundle by a private key (ECDSA), with no service.

The bundle holds a DSSE envelope (https://github.com/secure-systems-lab/dsse) of an in-toto statement that lists the SHA-256 of every file.
What is written here is read by `model_signing verify key`, and what `model_signing sign key` writes is read here.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from llmasos_checkpoint_kit.digests import digest_by
from llmasos_checkpoint_kit.folder import parse_json, read_small
from llmasos_hookspecs import CheckpointError, RequestError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_seal.signing import read_pem

_MEDIA: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
#: What never counts as part of a model.
_IGNORED: Final = (".git", ".gitattributes", ".github", ".gitignore")
_HASHES: Final[Mapping[int, HashAlgorithm]] = {256: SHA256(), 384: SHA384(), 521: SHA512()}
_DIGESTS: Final[Mapping[str, Callable[[], Any]]] = {"sha256": hashlib.sha256, "blake2": hashlib.blake2b, "blake2b": hashlib.blake2b}
_LARGEST: Final = 64 << 20
_SLICE: Final = 1 << 20


def new_key() -> tuple[str, str]:
    """The texts of a new private key's file and of its public key's, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), _public_pem(key.public_key()).decode()


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file. Raises ``RequestError``."""
    key: ec.EllipticCurvePrivateKey = _key(path, "private", lambda data: load_pem_private_key(data, None), ec.EllipticCurvePrivateKey)
    return key


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key in a PEM file. Raises ``RequestError``."""
    key: ec.EllipticCurvePublicKey = _key(path, "public", load_pem_public_key, ec.EllipticCurvePublicKey)
    return key


def sign(model: Path, signature: Path, key: ec.EllipticCurvePrivateKey, advance: Callable[[int], None] = lambda _: None) -> int:
    """Sign all files of a model, a folder or a file, and write the bundle to ``signature``; returns the number of files.

    Raises:
        CheckpointError: a file cannot be read.
        RequestError: the model holds symbolic links, or no file.
    """
    ignored = (*_IGNORED, *_inside(signature, model))
    digests = _digests(model, ignored, "sha256", links=False, advance=advance)
    if not digests:
        raise RequestError(f"{model} holds no file to sign; name the folder or the file of a model.")
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()]
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": model.resolve().name, "digest": {"sha256": _root(digests.values())}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(ignored)},
            "resources": resources,
        },
    }
    payload = json.dumps(statement).encode()
    signed = key.sign(_encoded(payload), ec.ECDSA(_HASHES[key.curve.key_size]))
    bundle = {
        "mediaType": _MEDIA,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    write_atomically(signature, json.dumps(bundle))
    return len(digests)


def verify(model: Path, signature: Path, key: ec.EllipticCurvePublicKey, advance: Callable[[int], None] = lambda _: None) -> int:
    """Check that a model is what a bundle says, and that ``key`` signed the bundle; returns the number of files.

    Raises:
        CheckpointError: the signature is not one by the key, or a file is missing, was changed, or was added.
        RequestError: the bundle lists files in a way that is not read.
    """
    statement = _statement(signature, key)
    try:
        listed = {str(each["name"]): str(each["digest"]) for each in statement["predicate"]["resources"]}
        how = statement["predicate"]["serialization"]
        method, kind, links = how["method"], how["hash_type"], bool(how["allow_symlinks"])
        ignored = tuple(str(each) for each in how.get("ignore_paths", ()))
        (subject,) = statement["subject"]
        whole = subject["digest"]["sha256"] == _root(listed.values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(signature) from error
    if method != "files" or kind not in _DIGESTS:
        raise RequestError(f"{signature} lists {str(kind)[:20]} of {str(method)[:20]}, and sha256 or blake2 of files is read; sign it so.")
    if not whole:
        raise _damaged(signature)
    found = _digests(model, (*_IGNORED, *ignored, *_inside(signature, model)), kind, links=links, advance=advance)
    for what, names in (
        ("lacks", listed.keys() - found.keys()),
        ("holds, unsigned,", found.keys() - listed.keys()),
        ("has other bytes in", {name for name in listed.keys() & found.keys() if listed[name] != found[name]}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{model} is not what was signed: it {what} {min(names)}{more}; get the model again.")
    return len(found)


def _statement(signature: Path, key: ec.EllipticCurvePublicKey) -> Mapping[str, Any]:
    """The statement in a bundle, once the key's signature of it was checked."""
    try:
        bundle = parse_json(read_small(signature, _LARGEST), str(signature))
        envelope = bundle["dsseEnvelope"]
        payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
        (signed,) = (base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"])
        named = bundle["verificationMaterial"].get("publicKey", {}).get("hint")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(signature) from error
    if named and named != _hint(key):
        raise CheckpointError(f"{signature} is by another key than the one given; take the public key of the signer.")
    try:
        key.verify(signed, _encoded(payload), ec.ECDSA(_HASHES[key.curve.key_size]))
    except InvalidSignature as error:
        raise CheckpointError(f"{signature} was changed, or is by another key than the one given; get both again.") from error
    statement = parse_json(payload, str(signature))
    if kind != _PAYLOAD or not isinstance(statement, dict) or statement.get("_type") != _STATEMENT:
        raise _damaged(signature)
    if statement.get("predicateType") != _PREDICATE:
        raise RequestError(
            f"{signature} states {str(statement.get('predicateType'))[:60]!r}, and {_PREDICATE} is read; sign the model anew."
        )
    return statement


def _digests(model: Path, ignored: Iterable[str], kind: str, *, links: bool, advance: Callable[[int], None]) -> dict[str, str]:
    """Name -> digest of each file of a model, in the order of names; that of a model that is one file is ``.``."""
    without = [PurePosixPath(each) for each in ignored]
    digest_of = functools.partial(_digest, kind=kind, advance=advance)
    found = {}
    for path in sorted(model.rglob("*")) if model.is_dir() else [model]:
        name = PurePosixPath(path.relative_to(model).as_posix())
        if any(name.is_relative_to(each) for each in without if each.parts):
            continue
        if path.is_symlink() and not links:
            raise RequestError(f"{path} is a symbolic link, and what is signed are files; copy the model to a folder without links.")
        if path.is_file():
            found[str(name)] = digest_by(digest_of, path)
    return found


def _digest(path: Path, kind: str, advance: Callable[[int], None]) -> str:
    value = _DIGESTS[kind]()
    with path.open("rb") as file:
        while data := file.read(_SLICE):
            value.update(data)
            advance(len(data))
    return str(value.hexdigest())


def _root(digests: Iterable[str]) -> str:
    """One digest of all."""
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in digests)).hexdigest()


def _inside(signature: Path, model: Path) -> tuple[str, ...]:
    """The signature's name in the model's folder, where it lies there."""
    file, folder = signature.resolve(), model.resolve()
    return (file.relative_to(folder).as_posix(),) if file != folder and file.is_relative_to(folder) else ()


def _encoded(payload: bytes) -> bytes:
    """What a signature covers: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_public_pem(key)).hexdigest()


def _key(path: Path, kind: str, load: Callable[[bytes], Any], wanted: type[Any]) -> Any:
    cure = "llmasos models keygen --openssf FILE makes a pair"
    key = read_pem(path, load, f"{kind} PEM key", cure)
    if not isinstance(key, wanted) or key.curve.key_size not in _HASHES:
        raise RequestError(f"{path} holds no {kind} ECDSA key of P-256, P-384 or P-521; {cure}.")
    return key


def _damaged(signature: Path) -> CheckpointError:
    return CheckpointError(f"{signature} is no signature of a model in the format of OpenSSF model-signing 1.0; get it again.")
