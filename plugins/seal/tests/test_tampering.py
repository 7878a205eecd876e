"""Whatever is changed in a sealed model is refused in one sentence, before a byte of it is used."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from llmasos_hookspecs import CheckpointError, virtual_folder
from llmasos_seal.age import Recipients
from llmasos_seal.layout import (
    CHUNK,
    TAG,
    SealedFile,
    data_folder,
    file_cipher,
    nonce,
    read_header,
    signed_bytes,
    write_header,
    write_manifest,
)
from llmasos_seal.reading import SealedFiles
from llmasos_seal.secrets import DataKey
from llmasos_seal.signing import public_text
from llmasos_seal.writing import seal

SEALED_CHUNK = CHUNK + TAG


def stored(folder: Path, identity: str, name: str) -> Path:
    """The encrypted file of a name."""
    files = SealedFiles(folder, identity)
    return data_folder(folder, files.header.number) / files.files[name].stored


def refusal(folder: Path, identity: str) -> str:
    """The sentence with which a sealed model is refused when it is opened and read."""
    with pytest.raises(CheckpointError) as raised:
        SealedFiles(folder, identity).verify()
    text = str(raised.value)
    assert text.endswith("."), text
    assert not re.search(r"[.!?] [A-Z]", text), f"more than a sentence: {text}"
    return text


@contextmanager
def changed(path: Path, change: Callable[[bytearray], None]) -> Iterator[None]:
    """The file with other bytes, and with its own again at the end."""
    data = path.read_bytes()
    other = bytearray(data)
    change(other)
    path.write_bytes(other)
    yield
    path.write_bytes(data)


def read_chunk(folder: Path, identity: str, name: str | None, index: int) -> None:
    """Open a sealed model, and read a byte of one chunk of a file."""
    files = SealedFiles(folder, identity)
    assert name is not None, "the header and the manifest are read when a model is opened"
    start = min(index * CHUNK, files.sizes[name] - 1)
    files.read(name, start, start + 1)


def test_what_was_sealed_is_read(sealed: Path, keys, contents: dict[str, bytes]) -> None:
    """Whole files, pieces across the borders of chunks, and nothing past the end."""
    files = SealedFiles(sealed, keys.identity)
    files.verify()
    folder = virtual_folder(sealed, files)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(contents)
    rng = random.Random(1)
    for name, data in contents.items():
        assert (folder / name).read_bytes() == data
        mapped = (folder / name).mapped()
        for _ in range(30):
            start, stop = sorted(rng.choice((0, CHUNK - 1, CHUNK, CHUNK + 1, len(data), rng.randrange(len(data) + 1))) for _ in range(2))
            assert mapped[start:stop].tobytes() == data[start:stop]


def test_chunks_that_are_asked_for_again_are_not_decrypted_again(sealed: Path, keys, contents: dict[str, bytes], monkeypatch) -> None:
    """The last four stay, and what is read from them cannot be changed through what was given out."""
    decrypted: list[int] = []
    decrypt = SealedFiles._decrypt

    def counted(self: SealedFiles, file: SealedFile, index: int, target: memoryview) -> None:
        decrypted.append(index)
        decrypt(self, file, index, target)

    monkeypatch.setattr(SealedFiles, "_decrypt", counted)
    files = SealedFiles(sealed, keys.identity)
    name, data = max(contents.items(), key=lambda item: len(item[1]))
    for start in (0, 2 * CHUNK, 0, CHUNK - 5, 3 * CHUNK):  # of which the fourth lies in two
        assert files.read(name, start, start + 10).tobytes() == data[start : start + 10]
    assert decrypted == [0, 2, 1, 3]
    assert not files.read(name, 0, CHUNK).flags.writeable
    small = next(each for each, value in contents.items() if 0 < len(value) < CHUNK)
    files.read(small, 0, 1)
    files.read(name, 2 * CHUNK, 2 * CHUNK + 1)
    assert decrypted == [0, 2, 1, 3, 0, 2]


def test_two_hundred_flipped_bits_are_all_refused(sealed: Path, keys) -> None:
    """In the header, the manifest and the files alike; of a file only the chunk that was hit is read, and that suffices."""
    rng = random.Random(7)
    files = SealedFiles(sealed, keys.identity)
    every = [path for path in sorted(sealed.rglob("*")) if path.is_file() and path.stat().st_size]
    by_stored = {file.stored: name for name, file in files.files.items()}
    for _ in range(200):
        path = rng.choice(every)
        place, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
        with path.open("r+b") as opened:
            opened.seek(place)
            (old,) = opened.read(1)
            opened.seek(place)
            opened.write(bytes([old ^ bit]))
            opened.flush()
            with pytest.raises(CheckpointError, match=r"^[^.!?]*(\.[^ ][^.!?]*)*\.$"):
                read_chunk(sealed, keys.identity, by_stored.get(path.name), place // SEALED_CHUNK)
            opened.seek(place)
            opened.write(bytes([old]))
    SealedFiles(sealed, keys.identity).verify()


def test_a_shorter_file_is_refused_when_the_model_is_opened(sealed: Path, keys) -> None:
    """By a byte, by a chunk, and of all its bytes."""
    path = stored(sealed, keys.identity, "odd.bin")
    data = path.read_bytes()
    for length in (len(data) - 1, 2 * SEALED_CHUNK, 0):
        os.truncate(path, length)
        with pytest.raises(CheckpointError, match="bytes, and 3158137 were sealed"):
            SealedFiles(sealed, keys.identity)
        path.write_bytes(data)
    path.unlink()
    assert "cannot be read" in refusal(sealed, keys.identity)


@pytest.mark.parametrize(("order", "first"), [((1, 0, 2), 1), ((0, 0, 2), 2), ((2, 1, 0), 1), ((1, 2, 0), 1)])
def test_chunks_in_another_order_are_refused(sealed: Path, keys, order: tuple[int, ...], first: int) -> None:
    """Swapped, one in the place of another, and moved on."""

    def reorder(data: bytearray) -> None:
        whole = bytes(data)
        data[: 3 * SEALED_CHUNK] = b"".join(whole[at * SEALED_CHUNK : (at + 1) * SEALED_CHUNK] for at in order)

    with changed(stored(sealed, keys.identity, "odd.bin"), reorder):
        assert f"was changed since it was sealed: chunk {first} of 4" in refusal(sealed, keys.identity)


def test_chunks_of_another_file_and_of_another_sealing_are_refused(
    sealed: Path, keys, signing: Ed25519PrivateKey, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """Of equal place and size, with the same recipient and signer: of one chunk, of a file, of all files and the manifest."""
    even, odd = (stored(sealed, keys.identity, name) for name in ("folder/even.bin", "odd.bin"))
    with changed(even, lambda data: data.__setitem__(slice(SEALED_CHUNK), odd.read_bytes()[:SEALED_CHUNK])):
        assert "chunk 1 of 2" in refusal(sealed, keys.identity)
    other = tmp_path / "other"
    other.mkdir()
    seal({name: tmp_path / "plain" / name for name in contents}, other, Recipients.of([keys.public]), signing)
    assert stored(other, keys.identity, "odd.bin").read_bytes() != odd.read_bytes()
    with changed(odd, lambda data: data.__setitem__(slice(None), stored(other, keys.identity, "odd.bin").read_bytes())):
        assert "chunk 1 of 4" in refusal(sealed, keys.identity)
    shutil.copytree(data_folder(other, read_header(other).number), data_folder(sealed, read_header(sealed).number), dirs_exist_ok=True)
    assert "is not what ed25519:" in refusal(sealed, keys.identity)


def test_files_under_each_others_name_are_refused(sealed: Path, keys) -> None:
    even, other = (stored(sealed, keys.identity, name) for name in ("folder/even.bin", "config.json"))
    data = even.read_bytes(), other.read_bytes()
    even.write_bytes(data[1])
    other.write_bytes(data[0])
    assert "bytes, and" in refusal(sealed, keys.identity)


def test_the_authentication_alone_tells_chunks_apart(sealed: Path, keys) -> None:
    """GCM refuses a chunk at another place, of a file of another name, size or count, even where the digest is not looked at."""
    files = SealedFiles(sealed, keys.identity)
    file = files.files["odd.bin"]
    data = stored(sealed, keys.identity, "odd.bin").read_bytes()[:SEALED_CHUNK]
    cipher = file_cipher(files.key, files.header.number, file.name)
    assert len(cipher.decrypt(nonce(0), data, file.associated(0))) == CHUNK
    others = [(1, file.associated(1)), (0, file.associated(1))]
    others += [(0, attrs.evolve(file, **{key: value}).associated(0)) for key, value in (("name", "other"), ("size", 4 * CHUNK))]
    for index, associated in others:
        with pytest.raises(Exception, match=r"^$"):
            cipher.decrypt(nonce(index), data, associated)


def test_another_key_opens_nothing(sealed: Path, make_keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of another identity, no identity at all, and a data key that somebody wrapped for our identity."""
    theirs = make_keys("theirs")
    assert f"is not sealed for {theirs.identity}" in refusal(sealed, theirs.identity)
    monkeypatch.delenv("LLMASOS_IDENTITY", raising=False)
    assert "nothing is given that opens it; set LLMASOS_IDENTITY" in refusal(sealed, None)


def test_a_data_key_that_somebody_else_wrapped_is_refused(sealed: Path, keys) -> None:
    """Anybody can encrypt something for a public key."""
    header = read_header(sealed)
    for secret, sentence in ((os.urandom(32), "manifest.bin was changed"), (b"short", "a key of 5 bytes")):
        write_header(sealed, attrs.evolve(header, wrapped=tuple(Recipients.of([keys.public]).wrap(secret))))
        assert sentence in refusal(sealed, keys.identity)


class Forger:
    """A recipient, who has the data key, and puts other bytes in the place of a file's."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.files = SealedFiles(folder, identity)
        self.folder, self.header, self.key = folder, self.files.header, self.files.key

    def forge(self, **entry: object) -> bytes:
        """Write a chunk of zeros and a manifest that lists it; returns the manifest as it is stored."""
        listed = dict(self.files.files)
        file = listed["config.json"]
        plain = bytes(file.size)
        sealed = file_cipher(self.key, self.header.number, file.name).encrypt(nonce(0), plain, file.associated(0))
        (data_folder(self.folder, self.header.number) / file.stored).write_bytes(sealed)
        made = attrs.evolve(file, sha256=hashlib.sha256(plain).hexdigest(), chunks=hashlib.sha256(sealed).digest())
        listed["config.json"] = attrs.evolve(made, **entry)
        return write_manifest(self.folder, self.header, self.key, listed)


def test_a_manifest_that_another_recipient_forged_does_not_fit_the_signature(sealed: Path, keys) -> None:
    """It decrypts: a recipient has the key. Who signed the model has not signed it."""
    forger = Forger(sealed, keys.identity)
    forger.forge()
    assert f"is not what {forger.header.signer} signed" in refusal(sealed, keys.identity)


def test_what_a_forger_signs_bears_the_forgers_name(sealed: Path, keys, signing: Ed25519PrivateKey) -> None:
    """A recipient can sign another manifest or take the signature away, and neither has the key of who signed it before: core holds the
    signer against ``security.trusted``."""
    forger = Forger(sealed, keys.identity)
    manifest = forger.forge()
    own = Ed25519PrivateKey.generate()
    message = signed_bytes(forger.header.number, manifest)
    write_header(sealed, attrs.evolve(forger.header, signer=public_text(own), signature=own.sign(message)))
    assert SealedFiles(sealed, keys.identity).header.signer == public_text(own) != public_text(signing)
    write_header(sealed, attrs.evolve(forger.header, signer=None, signature=b""))
    assert SealedFiles(sealed, keys.identity).header.signer is None
    write_header(sealed, attrs.evolve(forger.header, signature=own.sign(message)))
    assert "signed" in refusal(sealed, keys.identity)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../outside.txt"},
        {"name": "/etc/outside.txt"},
        {"name": "a\\b"},
        {"stored": "../../outside.bin"},
        {"size": -1},
        {"size": 2 * CHUNK},
        {"sha256": "beef"},
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(sealed: Path, keys, entry: dict[str, object]) -> None:
    """A sender may be hostile too: names stay within the folder, and sizes fit."""
    forger = Forger(sealed, keys.identity)
    forger.forge(**entry)
    write_header(sealed, attrs.evolve(forger.header, signer=None, signature=b""))
    assert "does not describe files" in refusal(sealed, keys.identity)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "number": "00", "keys": []}',
        '{"format": 1, "number": 7, "keys": 8, "signature": []}',
    ],
)
def test_a_header_of_another_form_is_refused(sealed: Path, keys, text: str) -> None:
    (sealed / "llmasos.seal").write_text(text)
    refusal(sealed, keys.identity)


def test_a_header_is_written_in_one_way_only(sealed: Path, keys) -> None:
    """The same header with other spaces is refused, so that no bit of it can be changed unseen."""
    path = sealed / "llmasos.seal"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert "is damaged" in refusal(sealed, keys.identity)


def test_a_key_is_derived_for_one_file_of_one_sealing() -> None:
    key = DataKey(bytes(32))
    derived = {key.derived(salt, purpose) for salt in (b"a" * 16, b"b" * 16) for purpose in ("file x", "file y", "manifest")}
    assert len(derived) == 6
    assert all(len(each) == 32 for each in derived)
    assert SealedFile(name="x", size=CHUNK + 1, sha256="", stored="", chunks=b"").count == 2
