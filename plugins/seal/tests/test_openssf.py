"""Signatures in the format of OpenSSF `model-signing`: its tool reads ours, we read its; a model that was changed passes neither."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from llmasos_hookspecs import CheckpointError, LLMasOSError, RequestError
from llmasos_hookspecs.testing import SandboxCommandContext, run_command
from llmasos_seal import signing_verbs, verbs
from llmasos_seal.openssf import new_key, read_private_key, read_public_key, sign, verify

FILES = {"config.json": b'{"a": 1}\n', "sub/w.bin": b"weights", ".gitignore": b"x"}
#: What `model_signing sign key` (model-signing 1.1.1) wrote of these files, and the public key to it.
THEIRS = (
    '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"6419'
    'c520e6e8e91fade102230b3ac099b4811120801448333804700a5d50e67a"},"tlogEntries":[]},"dsseEnvelope":{"payload":"ew'
    "ogICJfdHlwZSI6ICJodHRwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIiwKICAic3ViamVjdCI6IFsKICAgIHsKICAgICAgIm5hbWUiOiAi"
    "bW9kZWwiLAogICAgICAiZGlnZXN0IjogewogICAgICAgICJzaGEyNTYiOiAiODZmNzE4MDA1YWY3MjgxOGVkNzI4OTJlZTM0NTUyYjZhYzk2NW"
    "UzNDI3M2ZmMmUyYmVmZmNhYjg5YTQwNWE4MiIKICAgICAgfQogICAgfQogIF0sCiAgInByZWRpY2F0ZVR5cGUiOiAiaHR0cHM6Ly9tb2RlbF9z"
    "aWduaW5nL3NpZ25hdHVyZS92MS4wIiwKICAicHJlZGljYXRlIjogewogICAgInNlcmlhbGl6YXRpb24iOiB7CiAgICAgICJtZXRob2QiOiAiZm"
    "lsZXMiLAogICAgICAiaGFzaF90eXBlIjogInNoYTI1NiIsCiAgICAgICJhbGxvd19zeW1saW5rcyI6IGZhbHNlLAogICAgICAiaWdub3JlX3Bh"
    "dGhzIjogWwogICAgICAgICIuZ2l0aWdub3JlIiwKICAgICAgICAiLmdpdGh1YiIsCiAgICAgICAgIi5naXRhdHRyaWJ1dGVzIiwKICAgICAgIC"
    "AibW9kZWwuc2lnIiwKICAgICAgICAiLmdpdCIKICAgICAgXQogICAgfSwKICAgICJyZXNvdXJjZXMiOiBbCiAgICAgIHsKICAgICAgICAiZGln"
    "ZXN0IjogImU4YzYyOGVkYzk5NjhlZjBjNjY4ZjU0ZTBiYTI2MzZiMzU1MDMzNTdlYjFhY2EwZGRjODI4YWVhY2U0MzJmNjciLAogICAgICAgIC"
    "JuYW1lIjogImNvbmZpZy5qc29uIiwKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIKICAgICAgfSwKICAgICAgewogICAgICAgICJkaWdl"
    "c3QiOiAiOWExMjkwMzhkOWEwMGFlZDBjZjZhN2VhMDU5Y2E1MGE4MTM0NDkwNjFhYjg3ODQ4Y2YxYTEzZWFmZGYzM2IyYyIsCiAgICAgICAgIm"
    '5hbWUiOiAic3ViL3cuYmluIiwKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIKICAgICAgfQogICAgXQogIH0KfQ==","payloadType":'
    '"application/vnd.in-toto+json","signatures":[{"sig":"MEUCIQDfoEDHx2Uwm4wzrrRoH26xlTsScii4Vd65UehDwZ+SmQIgelA8Z'
    'FVmorB8oyphPrnHHrAApvIXm0rtSsY6x44TNHQ=","keyid":""}]}}'
)
THEIR_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAElZtuoM3jzaFMNQ+5x3hU+rB/s57J
aakwEd+cx17y2fDreIB/C5CJ8iZU2ane7jglcpKbqlq4+Mi5qxrWRHIXmw==
-----END PUBLIC KEY-----
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "model"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a private and of its public key."""
    for name, text in zip(("key.pem", "key.pub"), new_key(), strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path / "key.pem", tmp_path / "key.pub"


def signed(model: Path, pair: tuple[Path, Path]) -> Callable[[], int]:
    """Sign a model; what is returned checks the signature."""
    signature = model / "model.sig" if model.is_dir() else model.with_name("model.sig")
    sign(model, signature, read_private_key(pair[0]))
    return lambda: verify(model, signature, read_public_key(pair[1]))


def test_what_their_tool_signed_is_read(model: Path, tmp_path: Path) -> None:
    """And with one byte of the model or of the signature changed it is refused."""
    (tmp_path / "key.pub").write_text(THEIR_KEY)
    (model / "model.sig").write_text(THEIRS)
    key = read_public_key(tmp_path / "key.pub")
    assert verify(model, model / "model.sig", key) == 2
    (model / "model.sig").write_text(THEIRS.replace("MEUCIQDf", "MEUCIQDg"))
    with pytest.raises(CheckpointError, match="was changed, or is by another key"):
        verify(model, model / "model.sig", key)
    (model / "model.sig").write_text(THEIRS)
    (model / "config.json").write_bytes(b'{"a": 2}\n')
    with pytest.raises(CheckpointError, match=r"has other bytes in config\.json"):
        verify(model, model / "model.sig", key)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_their_tool_reads_what_we_sign_and_we_what_it_signs(model: Path, pair: tuple[Path, Path], form: str) -> None:
    pytest.importorskip("model_signing", reason="pip install model-signing pyopenssl", exc_type=ImportError)
    place = model if form == "folder" else model / "sub" / "w.bin"
    signature = model.parent / "model.sig"
    sign(place, signature, read_private_key(pair[0]))

    def theirs(verb: str, option: str, key: Path) -> int:
        command = [sys.executable, "-m", "model_signing", verb, "key", str(place), option, str(key), "--signature", str(signature)]
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode

    assert theirs("verify", "--public_key", pair[1]) == 0
    signature.unlink()
    assert theirs("sign", "--private_key", pair[0]) == 0
    assert verify(place, signature, read_public_key(pair[1])) == (2 if form == "folder" else 1)
    (model / "sub" / "w.bin").write_bytes(b"other")
    assert theirs("verify", "--public_key", pair[1]) != 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda model: (model / "sub" / "w.bin").write_bytes(b"weighty"), r"it has other bytes in sub/w\.bin; get"),
        (lambda model: (model / "config.json").unlink(), r"it lacks config\.json; get"),
        (lambda model: [(model / name).write_text("") for name in ("b", "a")], "it holds, unsigned, a and 1 more; get"),
        (lambda model: (model / "sub" / "w.bin").rename(model / "w.bin"), r"it lacks sub/w\.bin; get"),
    ],
)
def test_a_changed_model_is_refused(model: Path, pair: tuple[Path, Path], change: Callable[[Path], Any], sentence: str) -> None:
    check = signed(model, pair)
    assert check() == 2
    change(model)
    with pytest.raises(CheckpointError, match=sentence):
        check()


def test_files_of_git_and_the_signature_itself_are_no_part_of_a_model(model: Path, pair: tuple[Path, Path]) -> None:
    check = signed(model, pair)
    (model / ".gitignore").write_text("changed")
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("new")
    assert check() == 2
    sign(model, model / "model.sig", read_private_key(pair[0]))
    assert check() == 2, "A signature takes an older one's place."


def test_a_single_file_is_signed_too(model: Path, pair: tuple[Path, Path]) -> None:
    assert signed(model / "sub" / "w.bin", pair)() == 1


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_longer_curves_are_taken(model: Path, tmp_path: Path, curve: Any) -> None:
    key = ec.generate_private_key(curve)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sign(model, model / "model.sig", read_private_key(tmp_path / "key.pem"))
    assert verify(model, model / "model.sig", key.public_key()) == 2


def restated(signature: Path, pair: tuple[Path, Path], change: Callable[[Any], object]) -> None:
    """Change a signed statement, and sign it again: what a signer writes who does not keep to the format."""
    from llmasos_seal import openssf

    bundle = json.loads(signature.read_text())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    value = read_private_key(pair[0]).sign(openssf._encoded(payload), ec.ECDSA(openssf._HASHES[256]))
    envelope["payload"], envelope["signatures"][0]["sig"] = base64.b64encode(payload).decode(), base64.b64encode(value).decode()
    signature.write_text(json.dumps(bundle))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: found["predicate"]["serialization"].update(method="shards"), "sha256 or blake2 of files is read"),
        (lambda found: found["predicate"]["serialization"].update(hash_type="md5"), "sha256 or blake2 of files is read"),
        (lambda found: found.update(predicateType="https://example.org"), "sign the model anew"),
        (lambda found: found.update(_type="other"), "is no signature of a model"),
        (lambda found: found["subject"][0]["digest"].update(sha256="00"), "is no signature of a model"),
        (lambda found: found["predicate"].update(resources=7), "is no signature of a model"),
        (lambda found: found.update(subject=[]), "is no signature of a model"),
    ],
)
def test_a_statement_of_another_form_is_one_sentence(model: Path, pair: tuple[Path, Path], change: Any, sentence: str) -> None:
    check = signed(model, pair)
    restated(model / "model.sig", pair, lambda _: None)
    assert check() == 2
    restated(model / "model.sig", pair, change)
    with pytest.raises(LLMasOSError, match=sentence):
        check()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"dsseEnvelope": 7}', '{"dsseEnvelope": {"payload": "?", "payloadType": "", "signatures": []}}']
)
def test_a_file_that_is_no_bundle_is_one_sentence(model: Path, pair: tuple[Path, Path], text: str) -> None:
    (model / "model.sig").write_text(text)
    with pytest.raises(CheckpointError):
        verify(model, model / "model.sig", read_public_key(pair[1]))


def test_another_key_is_told(model: Path, pair: tuple[Path, Path]) -> None:
    signed(model, pair)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(CheckpointError, match="is by another key than the one given"):
        verify(model, model / "model.sig", other)
    for read, path in ((read_private_key, pair[1]), (read_public_key, pair[0]), (read_public_key, model / "none")):
        with pytest.raises(RequestError):
            read(path)


def test_links_are_refused(model: Path, pair: tuple[Path, Path]) -> None:
    """Of a linked file other bytes could be read tomorrow."""
    try:
        (model / "link").symlink_to(model / "config.json")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    with pytest.raises(RequestError, match="is a symbolic link"):
        signed(model, pair)


def test_the_verbs_sign_and_check(model: Path, tmp_path: Path) -> None:
    """With a pair of keys that keygen made; where nothing else is said the signature lies in the folder, or beside the file."""
    context, key = SandboxCommandContext(root=tmp_path), tmp_path / "made.pem"

    def said(command: Any, *arguments: object) -> str:
        run = run_command(command, *map(str, arguments))
        assert run.code == 0, run.error
        return run.output.strip()

    assert said(verbs.keygen(context), key, "--openssf") == f"{key}.pub"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "exists already" in run_command(verbs.keygen(context), str(key), "--openssf").error
    assert "leave --signing out" in run_command(verbs.keygen(context), str(tmp_path / "x"), "--openssf", "--signing").error
    for place, signature in ((model, model / "model.sig"), (model / "sub" / "w.bin", model / "sub" / "w.bin.sig")):
        assert said(signing_verbs.sign(context), place, "--key", key) == str(signature)
        assert json.loads(said(signing_verbs.check_signature(context), place, "--key", f"{key}.pub", "--json"))["files"] > 0
        (place / "config.json" if place.is_dir() else place).write_bytes(b"other")
        assert "is not what was signed" in run_command(signing_verbs.check_signature(context), str(place), "--key", f"{key}.pub").error
    assert "is no file and no folder" in run_command(signing_verbs.sign(context), str(tmp_path / "none"), "--key", str(key)).error
