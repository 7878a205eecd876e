"""Who can open a sealed model: identities of each kind, recipients of each kind, and others in their place."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from llmasos_hookspecs import CheckpointError, Command, RequestError
from llmasos_hookspecs.testing import SandboxCommandContext, run_command
from llmasos_seal.age import Recipients, unwrap
from llmasos_seal.layout import read_header
from llmasos_seal.reading import SealedFiles
from llmasos_seal.secrets import DataKey, forbid_core_dumps
from llmasos_seal.signing import read_signing_key
from llmasos_seal.verbs import keygen, rekey

SECRET = bytes(range(32))


@pytest.fixture
def context(tmp_path: Path) -> SandboxCommandContext:
    return SandboxCommandContext(root=tmp_path)


def done(command: Command, *arguments: object) -> str:
    """What a command prints, once it has ended well."""
    run = run_command(command, *map(str, arguments))
    assert run.code == 0, run.error
    return run.output.strip()


def test_every_kind_of_identity_opens_what_was_sealed_for_it(tmp_path: Path, keys) -> None:
    """An age identity, and SSH keys of both kinds, of which each is enough."""
    recipients, identities = [keys.public], [keys.identity]
    for name, key in (("ed25519", ed25519.Ed25519PrivateKey.generate()), ("rsa", rsa.generate_private_key(65537, 2048))):
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (tmp_path / f"{name}.pub").write_bytes(b"# a comment\n" + public + b" me@here\n")
        recipients.append(str(tmp_path / f"{name}.pub"))
        identities.append(str(tmp_path / name))
    wrapped = Recipients.of(recipients).wrap(SECRET)
    assert [unwrap(wrapped, identity, tmp_path) for identity in identities] == [SECRET] * 3


@pytest.mark.slow
def test_a_passphrase_opens_what_was_sealed_for_it(tmp_path: Path, keys) -> None:
    """Beside keys, though age wraps it apart from them; it takes seconds on purpose."""
    (tmp_path / "words").write_text("correct horse battery staple\n")
    passphrase = f"passphrase:{tmp_path / 'words'}"
    wrapped = Recipients.of([keys.public, passphrase]).wrap(SECRET)
    assert len(wrapped) == 2
    assert [unwrap(wrapped, identity, tmp_path) for identity in (keys.identity, passphrase)] == [SECRET] * 2
    with pytest.raises(CheckpointError, match="is not sealed for passphrase:"):
        unwrap(wrapped[:1], passphrase, tmp_path)


def test_an_identity_comes_from_the_environment(keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named goes before it."""
    wrapped = Recipients.of([keys.public]).wrap(SECRET)
    monkeypatch.setenv("LLMASOS_IDENTITY", keys.identity)
    assert unwrap(wrapped, None, tmp_path) == SECRET
    monkeypatch.setenv("LLMASOS_IDENTITY", str(tmp_path / "none"))
    assert unwrap(wrapped, keys.identity, tmp_path) == SECRET
    with pytest.raises(RequestError, match=r"none cannot be read \(No such file or directory\)"):
        unwrap(wrapped, None, tmp_path)


def test_an_identity_comes_from_the_keyring(context: SandboxCommandContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """keygen keeps it there, and never replaces one."""
    import keyring
    from keyring.backend import KeyringBackend

    class InMemory(KeyringBackend):
        priority = 1
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    try:
        public = done(keygen(context), "keyring:work")
        wrapped = Recipients.of([public]).wrap(SECRET)
        assert unwrap(wrapped, "keyring:work", tmp_path) == SECRET
        assert "holds an identity 'work' already" in run_command(keygen(context), "keyring:work").error
        with pytest.raises(RequestError, match="holds no identity 'home'; llmasos models keygen keyring:home makes one"):
            unwrap(wrapped, "keyring:home", tmp_path)
        assert "names a file" not in run_command(keygen(context), "keyring:sign", "--signing").output
        assert ("llmasos", "sign") not in InMemory.kept
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(RequestError, match=r"pip install llmasos-seal\[keyring\]"):
        unwrap(wrapped, "keyring:work", tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no identity"),
        ("# a comment alone\n", "holds no identity"),
        ("AGE-SECRET-KEY-1XYZ", "holds no age identity"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "holds no age identity and no SSH key"),
    ],
)
def test_a_file_that_is_no_identity_is_told(tmp_path: Path, keys, text: str, sentence: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(RequestError, match=sentence) as raised:
        unwrap(Recipients.of([keys.public]).wrap(SECRET), str(tmp_path / "file"), tmp_path)
    assert "SECRET-KEY" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Nobody could open the model"),
        (["age1xyz"], "age1xyz is no public key"),
        (["ssh-ed25519 AAAA"], "is no public key"),
        (["nowhere.pub"], "nowhere.pub cannot be read"),
        (["passphrase:nowhere"], "nowhere cannot be read"),
    ],
)
def test_a_recipient_that_is_none_is_told(words: list[str], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        Recipients.of(words)


def test_a_file_of_keys_is_for_its_user_alone_and_is_never_replaced(context: SandboxCommandContext, tmp_path: Path) -> None:
    """An identity and a signing key, each with the public key in a comment."""
    for name, options in (("identity.txt", ()), ("sign.pem", ("--signing",))):
        public = done(keygen(context), tmp_path / name, *options)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        text = (tmp_path / name).read_text()
        assert text.startswith(f"# public key: {public}\n")
        assert "exists already" in run_command(keygen(context), str(tmp_path / name), *options).error
        assert (tmp_path / name).read_text() == text
    read_signing_key(tmp_path / "sign.pem")
    with pytest.raises(RequestError, match="holds no PEM key"):
        read_signing_key(tmp_path / "identity.txt")
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(RequestError, match="another kind than Ed25519"):
        read_signing_key(tmp_path / "rsa.pem")


def test_rekeying_writes_the_header_alone(sealed: Path, keys, make_keys, context: SandboxCommandContext) -> None:
    """Others open the model, those before do not, and the signature still holds, though the key of who signed is nowhere near."""
    theirs = make_keys("new")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in sealed.rglob("*.bin")}
    signer, digest = read_header(sealed).signer, SealedFiles(sealed, keys.identity).digest
    done(rekey(context), sealed, "--to", theirs.public, "--identity", keys.identity)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in sealed.rglob("*.bin")} == before
    files = SealedFiles(sealed, theirs.identity)
    files.verify()
    assert (files.header.signer, files.digest) == (signer, digest)
    with pytest.raises(CheckpointError, match="is not sealed for"):
        SealedFiles(sealed, keys.identity)
    assert "is not sealed for" in run_command(rekey(context), str(sealed), "--to", keys.public, "-i", keys.identity).error


def test_a_full_rekeying_encrypts_all_anew(sealed: Path, keys, make_keys, context: SandboxCommandContext, contents, tmp_path: Path) -> None:
    """Under another data key; what was signed must be signed again."""
    theirs = make_keys("newer")
    old = SealedFiles(sealed, keys.identity)
    arguments = (sealed, "--to", theirs.public, "-i", keys.identity, "--full", "-q")
    assert "its files change; sign them again with --sign KEY" in run_command(rekey(context), *map(str, arguments)).error
    public = done(keygen(context), tmp_path / "again.pem", "--signing")
    done(rekey(context), *arguments, "--sign", tmp_path / "again.pem")
    files = SealedFiles(sealed, theirs.identity)
    files.verify()
    assert files.header.signer == public
    assert (files.key.secret != old.key.secret, files.header.number != old.header.number) == (True, True)
    assert {name: file.sha256 for name, file in files.files.items()} == {name: file.sha256 for name, file in old.files.items()}
    assert len(list(sealed.iterdir())) == 2, "nothing of the former files is left"
    assert "--sign signs what is encrypted anew" in run_command(rekey(context), str(sealed), "--sign", "x").error


def test_a_rekeying_that_is_killed_leaves_a_model_that_opens(sealed: Path, keys, tmp_path: Path, forked_children) -> None:
    """Files are complete before the header names them."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from llmasos_seal import writing\n"
        "from llmasos_seal.age import Recipients\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "writing.write_header = die\n"
        "writing.seal({'a': Path(sys.argv[2])}, Path(sys.argv[1]), Recipients.of([sys.argv[3]]), None)\n"
    )
    (tmp_path / "a").write_bytes(b"a" * 100)
    ended = forked_children.python(code, sealed, tmp_path / "a", keys.public)
    ended.communicate()
    assert ended.returncode == -9
    SealedFiles(sealed, keys.identity).verify()


def test_keys_are_locked_in_memory_and_no_core_is_dumped(sealed: Path, keys) -> None:
    """As far as the system allows: a page is locked for each model that is open."""
    if sys.platform != "linux":
        pytest.skip("this reads what Linux says of a process")
    before = _locked()
    kept = [DataKey.new() for _ in range(2)]
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] >= 1 << 20:
        assert _locked() - before == 2 * os.sysconf("SC_PAGE_SIZE")
    SealedFiles(sealed, keys.identity)
    forbid_core_dumps()
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    import ctypes

    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, "PR_GET_DUMPABLE"
    assert len(kept[0].secret) == 32


def _locked() -> int:
    """Bytes of this process that are locked in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck:"))
    return int(line.split()[1]) * 1024
