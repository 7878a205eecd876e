"""The hf source fetches only a model's files, goes on after a kill, and holds every byte to the Hub's digests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import settings

from llmasos.system.sources import resolve
from llmasos_hookspecs import SourceError

COMMIT = "a" * 40
OTHER = "b" * 40


class Hub:
    """A model hub on loopback with the parts of the protocol that a download needs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = COMMIT
        self.status: dict[str, int] = {}  # path of a file -> status to answer with
        self.ranges = True
        self.announced: dict[str, Any] = {}  # file -> digest or size that is not its own
        self.cuts: list[tuple[int, Callable[[], None] | None]] = []  # bytes to send, and what to do then (None: only close)
        self.served: list[tuple[str, int]] = []  # file and first byte of each answer
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def listing(self, repo: str) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            size = self.announced.get(f"{name}:size", len(content))
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            sibling: dict[str, Any] = {"rfilename": name, "size": size, "blobId": self.announced.get(f"{name}:git", git)}
            if name.endswith((".safetensors", ".gguf", ".bin")):
                sha = self.announced.get(name, hashlib.sha256(content).hexdigest())
                sibling["lfs"] = {"sha256": sha, "size": size, "pointerSize": 130}
            siblings.append(sibling)
        return {"id": repo, "modelId": repo, "sha": self.commit, "siblings": siblings, "cardData": {"license": "apache-2.0"}, "tags": []}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            if repo == "org/gated":
                self.send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif repo == "org/broken":
                self.send(request, 500, b"{}")
            elif repo != "org/model":
                self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("", "main", "v1", self.commit):
                self.send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                self.send(request, 200, json.dumps(self.listing(repo)).encode())
            return
        name = path.removeprefix(f"/org/model/resolve/{self.commit}/")
        if name not in self.files or name in self.status:
            self.send(request, self.status.get(name, 404), b"")
            return
        self.send_file(request, name)

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content, begin = self.files[name], 0
        asked = request.headers.get("Range", "")
        if asked and self.ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.served.append((name, begin))
        cut, then = self.cuts.pop(0) if self.cuts else (None, None)
        headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        body = content[begin:]
        self.send(request, 206 if begin else 200, body if cut is None else body[:cut], headers, len(body))
        if cut is not None:
            request.close_connection = True
            if then is not None:
                then()

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        try:
            request.send_response(status)
            for key, value in {"Content-Length": str(len(content) if length is None else length), **(headers or {})}.items():
                request.send_header(key, value)
            request.end_headers()
            request.wfile.write(content)
            request.wfile.flush()
        except ConnectionError:
            request.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    served.files = {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": random.Random(0).randbytes(3 << 20),
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"evil",
        "README.md": b"read me",
        "onnx/config.json": b"{}",
        "onnx/model.onnx": b"onnx",
    }
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield served
    served.close()


def test_only_the_models_own_files_are_fetched_with_commit_and_licence(hub, store):
    found = resolve("hf:org/model")
    assert {each.name for each in found.path.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (found.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    (model,) = store.models()
    assert (model.key, model.source, model.license_id) == ("hf:org/model", f"hf:org/model@{COMMIT}", "apache-2.0")
    assert {name for name, _ in hub.served} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_what_is_stored_needs_the_hub_no_more(hub, monkeypatch):
    first = resolve("hf:org/model").path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve("hf:org/model@main").path == first
    assert resolve("hf:org/model", offline=True).path == first


def test_revisions_are_entries_of_their_own(hub, store):
    resolve("hf:org/model@v1")
    resolve("hf:org/model")
    assert {model.key for model in store.models()} == {"hf:org/model@v1", "hf:org/model"}


def test_one_gguf_of_several_is_named(hub):
    hub.files = {"m.Q4_0.gguf": b"GGUF4", "m.Q8_0.gguf": b"GGUF8", "README.md": b""}
    with pytest.raises(SourceError, match=r"comes as several files; name one, as hf:org/model:m.Q4_0.gguf \(m.Q4_0.gguf, m.Q8_0.gguf\)"):
        resolve("hf:org/model")
    assert resolve("hf:org/model@v1:m.Q8_0.gguf").path.read_bytes() == b"GGUF8"
    with pytest.raises(SourceError, match=r'has no file m.Q5_0.gguf; did you mean "m.Q[48]_0.gguf"'):
        resolve("hf:org/model:m.Q5_0.gguf")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf:org/nothing", r"There is no model org/nothing on http://127.0.0.1:\d+, or it is private"),
        ("hf:org/model@v9", r"The model org/model has no revision v9"),
        ("hf:org/gated", r"The model org/gated is gated; accept its terms at .*/org/gated, then run hf auth login"),
        ("hf:org/broken", r"answered 500 for org/broken; try again later"),
        ("hf:-org/--x", r"is no name of a model on the Hub|must have the form"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_and_leaves_nothing(hub, store, reference, said):
    with pytest.raises(SourceError, match=said) as caught:
        resolve(reference)
    assert "\n" not in str(caught.value)
    assert not store.unfinished()


@pytest.mark.parametrize("reference", ["hf:a/b/c", "hf:", "hf:a b"])
def test_what_is_no_reference_is_told_its_form(reference):
    with pytest.raises(SourceError, match=r"must have the form hf:org/name"):
        resolve(reference)


def test_a_repository_without_a_model_that_is_safe_to_read_is_refused(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(SourceError, match=r"has no safetensors beside a config.json and no GGUF file"):
        resolve("hf:org/model")


def test_no_network_and_offline_are_one_sentence(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"http://127.0.0.1:9 cannot be reached, so hf:org/model was not fetched"):
        resolve("hf:org/model")
    with pytest.raises(SourceError, match=r"this run is offline; run llmasos models pull hf:org/model first"):
        resolve("hf:org/model", offline=True)


def test_a_broken_connection_is_taken_up_where_it_ended(hub):
    hub.files = {"w.gguf": random.Random(3).randbytes(3 << 20)}
    hub.cuts = [(1 << 20, None), (1000, None), (0, None)]
    assert resolve("hf:org/model").path.read_bytes() == hub.files["w.gguf"]
    begins = [begin for _, begin in hub.served]
    assert begins[0] == 0
    assert begins[1] > 0
    assert begins == sorted(begins)
    assert len(begins) == 4


def test_a_server_without_ranges_is_read_from_the_start(hub):
    hub.files = {"w.gguf": random.Random(3).randbytes(3 << 20)}
    hub.ranges = False
    hub.cuts = [(1 << 20, None)]
    assert resolve("hf:org/model").path.read_bytes() == hub.files["w.gguf"]


def test_a_server_that_always_breaks_off_is_given_up_in_one_sentence(hub, store):
    hub.files = {"w.gguf": bytes(5000)}
    hub.cuts = [(0, None)] * 20
    with pytest.raises(SourceError, match=r"cannot be reached|ends w.gguf"):
        resolve("hf:org/model")
    assert store.models() == ()


@pytest.mark.parametrize(("file", "key"), [("model.safetensors", "model.safetensors"), ("config.json", "config.json:git")])
def test_a_file_with_another_digest_is_thrown_away(hub, store, file, key):
    hub.announced[key] = "0" * (64 if key == file else 40)
    with pytest.raises(SourceError, match=rf"{file} of org/model does not have the digest that .* announces"):
        resolve("hf:org/model")
    assert store.models() == ()
    del hub.announced[key]
    assert resolve("hf:org/model").path.is_dir()


def test_a_server_that_sends_more_than_it_announced_is_cut_off(hub, store):
    hub.files = {"w.gguf": bytes(5000)}
    hub.announced["w.gguf:size"] = 4000
    with pytest.raises(SourceError, match=r"sends more of w.gguf than the 4000 bytes it announces"):
        resolve("hf:org/model")
    assert store.models() == ()


def test_a_file_name_that_leads_outside_is_refused(hub, store):
    hub.files = {"../../evil.gguf": b"GGUF"}
    with pytest.raises(SourceError, match="outside"):
        resolve("hf:org/model")
    assert not list(store.root.rglob("evil*"))


def test_a_file_that_the_server_refuses_is_one_sentence(hub):
    hub.status["model.safetensors"] = 503
    with pytest.raises(SourceError, match=r"answered 503 for model.safetensors"):
        resolve("hf:org/model")


def test_a_disk_that_is_too_small_is_said_before_the_download(hub, monkeypatch):
    monkeypatch.setattr("llmasos_source_hf.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(SourceError, match=r"hf:org/model takes 3.0 MiB, and .* has 1000 B left; make room"):
        resolve("hf:org/model")
    assert hub.served == []


CODE = "import sys; sys.stdin.readline(); from llmasos.system.sources import resolve; print(resolve('hf:org/model').path)"


def test_killed_at_random_moments_it_resumes_and_nothing_half_is_ever_seen(hub, store, forked_children):
    hub.files = {"w.gguf": random.Random(3).randbytes(8 << 20)}
    chance = random.Random(4)

    def arrived() -> int:
        return sum(path.stat().st_size for path in (store.root / "staging").rglob("*") if path.is_file())

    for turn in range(3 if settings.default.max_examples < 500 else 10):
        process = forked_children.python(CODE)
        before, size = arrived(), chance.randrange(1, 700_000)

        def kill(pid: int = process.pid, more: int = before if turn % 2 and size > 200_000 else -1) -> None:
            # At any moment, or as soon as a part has reached the disk.
            while arrived() <= more:
                time.sleep(0.001)
            os.kill(pid, signal.SIGKILL)

        hub.cuts = [(size, kill)]
        process.communicate("go\n", timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert store.find("hf:org/model") is None
    assert resolve("hf:org/model").path.read_bytes() == hub.files["w.gguf"]
    begins = [begin for _, begin in hub.served]
    assert begins == sorted(begins)
    assert begins[-1] > 0
    assert not store.unfinished()
    assert list(store.verify()) == []


def test_a_branch_that_moved_between_two_tries_leaves_nothing_of_the_old_one(hub, store):
    hub.files = {"config.json": b"{}", "model.safetensors": b"old" * 1000, "tokenizer.json": b"{}", "old.json": b"{}"}
    hub.status["tokenizer.json"] = 503
    with pytest.raises(SourceError, match="503"):
        resolve("hf:org/model")
    hub.files = {"config.json": b'{"new": 1}', "model.safetensors": b"new" * 1000, "tokenizer.json": b"{}"}
    hub.commit, hub.status = OTHER, {}
    found = resolve("hf:org/model").path
    assert {each.name: each.read_bytes() for each in found.iterdir()} == hub.files
    assert store.models()[0].source == f"hf:org/model@{OTHER}"


def test_two_processes_at_once_end_with_one_good_copy_and_one_download(hub, store, forked_children):
    running = [forked_children.python(CODE) for _ in range(2)]
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert list(store.verify()) == []
    assert [name for name, _ in hub.served].count("model.safetensors") == 1
