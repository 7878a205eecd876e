"""Recipients and identities of age (https://age-encryption.org/v1), which wrap and unwrap the data key of a sealed model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pyrage

from llmasos_hookspecs import CheckpointError, RequestError

#: The environment variable that says what opens sealed models.
VARIABLE: Final = "LLMASOS_IDENTITY"
KEYRING: Final = "keyring:"
PASSPHRASE: Final = "passphrase:"  # noqa: S105 - what precedes the name of a file

_SERVICE: Final = "llmasos"
_LARGEST: Final = 1 << 20
_FORMS: Final = "a file with an age identity or an SSH key, keyring:NAME, or passphrase:FILE"


@attrs.frozen
class Recipients:
    """Who can open a model: public keys, and passphrases, which age wraps apart."""

    keys: tuple[Any, ...]
    passphrases: tuple[str, ...]

    @classmethod
    def of(cls, words: Iterable[str]) -> Recipients:
        """``words``: public keys of age or SSH, files that hold such keys a line each, or ``passphrase:FILE``.

        Raises:
            RequestError: none is given, or one cannot be read.
        """
        keys: list[Any] = []
        passphrases: list[str] = []
        for word in words:
            if word.startswith(PASSPHRASE):
                passphrases.append(_passphrase(word))
            else:
                keys.extend(_public_keys(word))
        if not keys and not passphrases:
            raise RequestError("Nobody could open the model; name who may, as in --to age1..., with the public key that keygen prints.")
        return cls(tuple(keys), tuple(passphrases))

    def wrap(self, secret: bytes) -> list[bytes]:
        """The secret, encrypted so that each of them can open one of what is returned."""
        found = [pyrage.encrypt(secret, list(self.keys))] if self.keys else []
        return [*found, *(pyrage.passphrase.encrypt(secret, each) for each in self.passphrases)]


def unwrap(wrapped: Sequence[bytes], identity: str | None, where: Path) -> bytes:
    """What ``Recipients.wrap`` wrapped.

    Args:
        wrapped: what it returned.
        identity: a file, ``keyring:NAME`` or ``passphrase:FILE``; None: what the environment says.
        where: the sealed model, for messages.

    Raises:
        CheckpointError: there is no identity, or it is none of the model's.
        RequestError: the identity cannot be read.
    """
    given = identity or os.environ.get(VARIABLE)
    if not given:
        raise CheckpointError(f"{where} is sealed, and nothing is given that opens it; set {VARIABLE} to {_FORMS}.")
    opens = _opener(given)
    for each in wrapped:
        with contextlib.suppress(pyrage.DecryptError):
            return opens(each)
    raise CheckpointError(f"{where} is not sealed for {given}; ask who sealed it to add that key, or take the right one.")


def new_identity() -> tuple[str, str]:
    """The text of a new identity's file, and its public key."""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    return f"# public key: {public}\n{identity}\n", public


def keep_in_keyring(name: str, text: str) -> None:
    """Store an identity in the system's keyring. Raises ``RequestError`` where there is none, or one of that name is there."""
    keyring = _keyring()
    if keyring.get_password(_SERVICE, name) is not None:
        raise RequestError(f"The keyring holds an identity {name!r} already; take another name.")
    keyring.set_password(_SERVICE, name, text)


def _opener(given: str) -> Callable[[bytes], bytes]:
    if given.startswith(PASSPHRASE):
        passphrase = _passphrase(given)
        return lambda data: pyrage.passphrase.decrypt(data, passphrase)
    if given.startswith(KEYRING):
        name = given.removeprefix(KEYRING)
        text = _keyring().get_password(_SERVICE, name)
        if text is None:
            raise RequestError(f"The keyring holds no identity {name!r}; llmasos models keygen keyring:{name} makes one.")
        identities = list(_identities(text, given))
    else:
        identities = list(_identities(_read(given), given))
    return lambda data: pyrage.decrypt(data, identities)


def _identities(text: str, where: str) -> Iterator[Any]:
    """The identities of a file: lines of age, or one SSH key."""
    try:
        if text.lstrip().startswith("-----BEGIN"):
            yield pyrage.ssh.Identity.from_buffer(text.encode())
            return
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            raise RequestError(f"{where} holds no identity; give {_FORMS}.")
        for line in lines:
            yield pyrage.x25519.Identity.from_str(line)
    except pyrage.IdentityError as error:
        raise RequestError(f"{where} holds no age identity and no SSH key without a passphrase; give {_FORMS}.") from error


def _public_keys(word: str) -> Iterator[Any]:
    if word.startswith(("age1", "ssh-")):
        yield _public_key(word, word)
        return
    lines = [line.strip() for line in _read(word).splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise RequestError(f"{word} holds no public key; give age1... or ssh-..., or a file that holds such keys.")
    for line in lines:
        yield _public_key(line, word)


def _public_key(text: str, where: str) -> Any:
    kind: Any = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
    try:
        return kind.from_str(text)
    except pyrage.RecipientError as error:
        raise RequestError(f"{where[:80]} is no public key of age or SSH; those of age begin with age1.") from error


def _passphrase(word: str) -> str:
    path = word.removeprefix(PASSPHRASE)
    text = _read(path).splitlines()
    if not text or not text[0].strip():
        raise RequestError(f"{path} holds no passphrase in its first line; write one there.")
    return text[0].strip()


def _read(path: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(_LARGEST).decode("utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror or error}); check the path of the key.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} holds no text, and keys are text; check the path of the key.") from error


def _keyring() -> Any:
    try:
        import keyring
    except ImportError as error:
        raise RequestError("The package keyring is not installed; pip install llmasos-seal[keyring].") from error
    return keyring
