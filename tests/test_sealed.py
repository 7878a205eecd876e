"""A sealed model runs as the plain one does, on every loader, and nothing of it reaches the disk."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from core.tests.forked_children import ForkedChildren

import llmasos
from llmasos.api.exporting import export
from llmasos.compose.formats import open_model
from llmasos.compose.replicas import local
from llmasos_hookspecs import CheckpointError, ConfigError, LLMasOSError, RequestError, is_sealed
from llmasos_hookspecs.testing import TinyCheckpoint, tiny_checkpoint, tiny_encoder
from llmasos_model_store.builds import Builds
from llmasos_seal.age import VARIABLE, Recipients, new_identity
from llmasos_seal.signing import new_signing_key, read_signing_key
from llmasos_seal.writing import seal

TOKENS = [5, 77, 200, 31, 8, 140, 9]
CANARY = "CANARY-OF-WEIGHTS-AND-NAMES-7193"


@attrs.frozen
class Models:
    """A model in the clear and sealed, as a folder and as a GGUF file, and who signed it."""

    folder: Path
    gguf: Path
    sealed_folder: Path
    sealed_gguf: Path
    signer: str
    recipient: str


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    top = tmp_path_factory.mktemp("sealed")
    text, public = new_identity()
    (top / "identity.txt").write_text(text)
    pem, signer = new_signing_key()
    (top / "key.pem").write_text(pem)
    plain = planted(tiny_checkpoint("llama", seed=3)).write(top / "plain").path
    (plain / f"{CANARY}.txt").write_text(CANARY)
    export(plain, top / "plain.gguf", gguf="q8_0")
    for name, sources in (("folder", {file.name: file for file in plain.iterdir()}), ("gguf", {"plain.gguf": top / "plain.gguf"})):
        (top / name).mkdir()
        seal(sources, top / name, Recipients.of([public]), read_signing_key(top / "key.pem"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(top / "identity.txt"))
        yield Models(plain, top / "plain.gguf", top / "folder", top / "gguf", signer, public)


def planted(checkpoint: TinyCheckpoint) -> TinyCheckpoint:
    """The checkpoint with the canary in its weights, where no loader rounds them, and in its config."""
    norm = np.array(checkpoint.tensors["model.norm.weight"])
    norm[:8] = np.frombuffer(CANARY.encode(), dtype=np.float32)
    return attrs.evolve(checkpoint, config={**checkpoint.config, "note": CANARY}, tensors={**checkpoint.tensors, "model.norm.weight": norm})


def logits(source: Path, loader: Any) -> np.ndarray:
    with llmasos.load_model(str(source), loader=loader) as model:
        return model.logits(TOKENS)


@pytest.mark.parametrize(
    ("form", "loader"),
    [
        *(("folder", loader) for loader in ("onnx", "torch", "openvino")),
        ("gguf", "onnx"),
        pytest.param("folder", "tf", marks=pytest.mark.long),
        *(pytest.param("gguf", loader, marks=pytest.mark.long) for loader in ("torch", "openvino", "tf")),
    ],
)
def test_a_sealed_model_gives_the_same_logits(models: Models, loader: str, form: str) -> None:
    """Bitwise, on every loader, from a folder and from a GGUF file."""
    plain, sealed = (getattr(models, name) for name in (form, f"sealed_{form}"))
    assert is_sealed(open_model(sealed))
    np.testing.assert_array_equal(logits(sealed, loader), logits(plain, loader))


@pytest.mark.parametrize("loader", ["onnx", "torch"])
def test_a_sealed_encoder_gives_the_same_vectors(models: Models, loader: str, tmp_path: Path) -> None:
    """Also after its weights could have been freed: a graph in memory keeps what it reads."""
    plain = tiny_encoder().write(tmp_path / "plain").path
    (tmp_path / "sealed").mkdir()
    seal({file.name: file for file in plain.iterdir()}, tmp_path / "sealed", Recipients.of([models.recipient]), None)
    texts = ["Good morning", "An otter sleeps", "x"]
    found = []
    for source in (plain, tmp_path / "sealed"):
        with llmasos.load_model(str(source), loader=loader) as model:
            gc.collect()
            rubbish = [np.full(64_000, 7.0, np.float32) for _ in range(50)]
            found.append(model.embed(texts))
            del rubbish
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("precision", ["int4", *(pytest.param(each, marks=pytest.mark.long) for each in ("int8", "int8_channel"))])
def test_a_loader_that_quantises_does_so_in_memory(models: Models, precision: str) -> None:
    loader = {"use": "onnx", "precision": precision}
    np.testing.assert_array_equal(logits(models.sealed_folder, loader), logits(models.folder, loader))


@pytest.mark.parametrize(
    ("module", "builds", "loader"),
    [
        ("llmasos_backend_onnx.decoder", "build_decoder", {"use": "onnx", "precision": "int8"}),
        pytest.param("llmasos_backend_openvino.loading", "WeightReader", {"use": "openvino"}, marks=pytest.mark.long),
    ],
)
def test_what_a_loader_built_is_kept_encrypted(
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_home: Callable[[Path], Path],
    module: str,
    builds: str,
    loader: dict[str, Any],
) -> None:
    """The next load does not build it again, unless it was changed on the disk; and it goes with its model."""
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path / "home")))
    built: list[str] = []
    build = getattr(importlib.import_module(module), builds)

    def counted(checkpoint: Any, *arguments: Any, **options: Any) -> Any:
        built.append(checkpoint.digest)
        return build(checkpoint, *arguments, **options)

    monkeypatch.setattr(f"{module}.{builds}", counted)
    first, again = logits(models.sealed_folder, loader), logits(models.sealed_folder, loader)
    assert len(built) == 1
    (kept,) = (tmp_path / "home").rglob("build.bin")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    for found in (again, logits(models.sealed_folder, loader), logits(models.folder, loader)):
        np.testing.assert_array_equal(found, first)
    assert len(built) == 3
    assert Builds().remove(models.sealed_folder) >= len(data)
    assert not kept.exists()


def test_text_and_tokenizer_are_those_of_the_plain_model(models: Models) -> None:
    with llmasos.load_model(str(models.folder)) as plain, llmasos.load_model(str(models.sealed_folder)) as sealed:
        texts = [model.generate_text("Good morning", max_new_tokens=8, seed=1) for model in (plain, sealed)]
        chats = [model.chat([{"role": "user", "content": "Hello"}], max_new_tokens=8) for model in (plain, sealed)]
    assert (texts[0], chats[0]) == (texts[1], chats[1])


def test_replicas_open_a_sealed_model_themselves(models: Models, forked_children: ForkedChildren, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each child inherits where the identity is; no command line holds a key."""
    popen, commands = forked_children.Popen, list[list[str]]()

    def noted(command: list[str], **how: Any) -> Any:
        commands.append(command)
        return popen(command, **how)

    monkeypatch.setattr(forked_children, "Popen", noted)
    monkeypatch.setattr(local, "subprocess", forked_children)
    config = {"model": {"source": str(models.sealed_folder), "replicas": 2}, "loader": "onnx"}
    with llmasos.Pipeline.from_config(config) as pipeline:
        found = pipeline.model.logits(TOKENS)
    np.testing.assert_array_equal(found, logits(models.folder, "onnx"))
    secret = Path(os.environ[VARIABLE]).read_text().split()[-1]
    assert secret.startswith("AGE-SECRET-KEY-")
    assert sum("local_child" in " ".join(command) for command in commands) == 2
    assert not [word for command in commands for word in command if secret in word or os.environ[VARIABLE] in word]


@pytest.mark.parametrize(
    ("security", "plain", "sealed"),
    [
        ({}, None, None),
        ({"require": "sealed"}, 'is not sealed, and security.require is "sealed"', None),
        ({"require": "signed"}, "security.trusted names no key", "security.trusted names no key"),
        ({"require": "signed", "trusted": ["ed25519:AAAA"]}, "holds no signature", "is signed by ed25519:"),
        ({"require": "signed", "trusted": ["SIGNER"]}, "holds no signature", None),
        ({"trusted": ["ed25519:AAAA"]}, None, "is signed by ed25519:"),
        ({"require": "sealed", "trusted": ["ed25519:AAAA", "SIGNER"]}, "is not sealed", None),
    ],
)
def test_config_says_what_a_model_must_have(models: Models, security: dict[str, Any], plain: str | None, sealed: str | None) -> None:
    """Sealed, or signed by a key that is trusted; else it is refused before anything is loaded."""
    table = dict(security)
    if "trusted" in table:
        table["trusted"] = [key.replace("SIGNER", models.signer) for key in table["trusted"]]
    for source, sentence in ((models.folder, plain), (models.sealed_folder, sealed)):
        config = {"model": {"source": str(source)}, "loader": "onnx", "security": table}
        with llmasos.Pipeline.from_config(config) as pipeline:
            if sentence is None:
                assert pipeline.model.logits(TOKENS).shape == (len(TOKENS), 288)
            else:
                with pytest.raises((CheckpointError, ConfigError), match=sentence):
                    pipeline.model.logits(TOKENS)


def test_a_signature_that_was_taken_away_is_missed(models: Models, tmp_path: Path) -> None:
    """Who trusts a signer's models is not given one that a recipient made of it."""
    shutil.copytree(models.sealed_folder, tmp_path / "taken")
    header = tmp_path / "taken" / "llmasos.seal"
    found = json.loads(header.read_text())
    del found["signature"]
    header.write_text(json.dumps(found, indent=2) + "\n")
    config = {"model": {"source": str(tmp_path / "taken")}, "loader": "onnx", "security": {"trusted": [models.signer]}}
    with llmasos.Pipeline.from_config(config) as pipeline, pytest.raises(CheckpointError, match="holds no signature"):
        pipeline.model.logits(TOKENS)


def test_what_would_write_a_sealed_model_in_the_clear_is_refused(models: Models, tmp_path: Path) -> None:
    """Stages of acceleration and exports, each with one sentence that says what to do."""
    stages = [{"use": "quant", "bits": 8}]
    with pytest.raises(LLMasOSError, match="is sealed, and what a stage writes would lie in the clear"):
        llmasos.accelerate(str(models.sealed_folder), stages, output=tmp_path / "out")
    with pytest.raises(LLMasOSError, match="is sealed"):
        llmasos.load_model(str(models.sealed_folder), accelerate=stages)
    with pytest.raises(RequestError, match="is sealed, and an export would lie in the clear"):
        export(models.sealed_folder, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_a_sealed_teacher_is_refused_too(models: Models, tmp_path: Path) -> None:
    """What a student learns from it would be kept on the disk between steps."""
    stages = [{"use": "distill", "teacher": str(models.sealed_folder), "steps": 1}]
    with pytest.raises(LLMasOSError, match=r"folder is sealed, and what a stage writes"):
        llmasos.accelerate(str(models.folder), stages, output=tmp_path / "out")


def test_verify_reads_all_of_a_sealed_model(models: Models, tmp_path: Path, llmasos_cli: Any) -> None:
    """A file that is no part of what loading reads is checked as well."""
    assert llmasos_cli("models", "verify", str(models.sealed_folder)).returncode == 0
    shutil.copytree(models.sealed_folder, tmp_path / "damaged")
    smallest = min((tmp_path / "damaged").rglob("0*.bin"), key=lambda path: path.stat().st_size)  # the file that bears the canary's name
    smallest.write_bytes(bytes(smallest.stat().st_size))
    done = llmasos_cli("models", "verify", str(tmp_path / "damaged"))
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert "was changed since it was sealed: chunk 1 of 1" in done.stdout


def test_verify_reads_every_tensor_of_a_plain_model_at_a_path(tmp_path: Path, llmasos_cli: Any) -> None:
    """One that holds NaN in a weight is told so."""
    model = tiny_checkpoint("llama")
    broken = {**model.tensors, "model.norm.weight": np.full(64, np.nan, dtype=np.float32)}
    attrs.evolve(model, tensors=broken).write(tmp_path / "model")
    done = llmasos_cli("models", "verify", str(tmp_path / "model"))
    assert (done.returncode, "holds NaN or infinity in model.norm.weight" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("sealed", "loaders"),
    [
        (False, ()),
        (True, ("onnx",)),
        pytest.param(True, ("torch", "tf", "openvino"), marks=pytest.mark.long),  # whose imports take the time
    ],
)
def test_nothing_of_a_sealed_model_is_found_on_the_disk(
    models: Models, tmp_path: Path, forked_children: ForkedChildren, sealed: bool, loaders: tuple[str, ...]
) -> None:
    """Not while it runs and not after kill -9: neither the canary, in its weights and names, nor a digest that tells which model it is, in
    home, cache, temporary files, shared memory and logs. Of the plain model both are found, so the search can find them."""
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    source = models.sealed_folder if sealed else models.folder
    environment = {**os.environ, "LLMASOS_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-I", "-c", _RUN, str(source), str(tmp_path / "work" / "out") if sealed else "", *loaders]
    (given, give), (tell, telling) = os.pipe(), os.pipe()
    with os.fdopen(given) as stdin, os.fdopen(give, "w"), os.fdopen(tell) as answer, (tmp_path / "work" / "log.txt").open("wb") as log:
        with os.fdopen(telling, "w") as stdout:
            child = forked_children.Popen(
                command, stdin=stdin.fileno(), stdout=stdout.fileno(), stderr=log, cwd=str(tmp_path / "work"), env=environment
            )
        told = answer.readline().strip()
        found = _found(tmp_path, models, shared, before)
        child.kill()
        child.wait(60)
    assert told == ("refused" if sealed else "done"), (tmp_path / "work" / "log.txt").read_text()
    found += _found(tmp_path, models, shared, before)
    assert bool(found) != sealed, found
    if not sealed:
        assert {what for _, what in found} == {"canary", "digest"}


#: Loads a model so that the loader quantises it, and on further loaders, lets it speak, quantises it by a stage, and waits to be killed.
_RUN = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
import llmasos
from llmasos_hookspecs import LLMasOSError
source, output, *loaders = sys.argv[1:]
models = [llmasos.load_model(source, loader=loader) for loader in ({"use": "onnx", "precision": "int4"}, *loaders)]
for model in models:
    model.generate_text("Good morning", max_new_tokens=4)
try:
    if output:
        llmasos.accelerate(source, [{"use": "quant", "bits": 4}], output=output)
    print("done", flush=True)
except LLMasOSError:
    print("refused", flush=True)
sys.stdin.read()
"""


def _found(top: Path, models: Models, shared: Path, before: set[Path]) -> list[tuple[str, str]]:
    """Where the canary and the digests of the model's files are, in names and contents of all files."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in models.folder.iterdir()]
    digests.append(open_model(models.folder).digest)
    places = [*top.rglob("*"), *((set(shared.iterdir()) if shared.is_dir() else set()) - before)]
    found = []
    for path in places:
        data = path.read_bytes() if path.is_file() else b""
        if CANARY in path.name or CANARY.encode() in data:
            found.append((str(path), "canary"))
        if any(digest in path.name or digest.encode() in data for digest in digests):
            found.append((str(path), "digest"))
    return found
