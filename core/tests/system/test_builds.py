"""What was made of models on disk: engines that loaders built and stages; listed, removed with their model, and held within a size."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer

from llmasos import load_model
from llmasos.acceleration.cache import StageCache
from llmasos.cli import invoke
from llmasos_decoder_kit.artifact import obtain
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_model_store.builds import Builds
from llmasos_model_store.folders import cache_folder
from llmasos_model_store.store import Store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verb(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """``llmasos models ... --json`` in this process."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line sets

    def run(*words: str) -> dict:
        assert invoke(["models", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def build(root: Path, key: str, size: int, of: Path, days: float) -> Path:
    """An engine of so many bytes, used so many days ago."""

    def fill(folder: Path) -> dict[str, str]:
        (folder / "weights.bin").write_bytes(b"x" * size)
        return {}

    folder, _ = obtain(root / "llmasos-a" / "a", key, fill, of=of)
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - days * 86400,) * 2)
    return folder


def test_builds_are_held_within_a_size_and_an_age(tmp_path: Path) -> None:
    """Those used longest ago go first; one that was used a moment ago stays, because a process may be opening it."""
    builds = Builds(tmp_path)
    for number in range(4):
        build(tmp_path, f"key{number}", 1000, tmp_path / "m", days=4 - number)
    assert [each.path.name for each in builds.all()] == ["key0", "key1", "key2", "key3"]
    assert builds.trim(1 << 20) == 0
    assert builds.trim(0, older=2.5 * 86400) > 2000
    assert [each.path.name for each in builds.all()] == ["key2", "key3"]
    obtain(tmp_path / "llmasos-a" / "a", "key2", lambda _: {}, of=tmp_path / "m")
    assert builds.trim(0) > 1000
    assert [each.path.name for each in builds.all()] == ["key2"], "What was used a moment ago stays."
    assert builds.trim(0, fresh=0.0) > 1000
    assert builds.all() == ()


def test_a_build_goes_with_the_last_model_that_it_was_made_of(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        build(tmp_path / "cache", "key", 10, folder, days=0)
    builds = Builds(tmp_path / "cache")
    assert builds.remove(tmp_path / "other") == builds.remove(first) == 0
    shutil.rmtree(first)
    assert builds.remove(second) > 10
    assert builds.all() == ()


def test_removing_a_model_removes_all_that_was_made_of_it(home: Path, verb: Callable[..., dict], fork_server: ForkServer) -> None:
    """Its engine, its stages and their engines are listed with their sizes, and gone with it; another model's stay."""

    def fill(folder: Path) -> None:
        tiny_checkpoint(folder=home / "tiny")
        shutil.copytree(home / "tiny", folder, dirs_exist_ok=True)

    place = Store().add("hf:org/tiny", fill, source="a test")
    tiny_checkpoint(folder=home / "other", seed=1)
    load_model(place, loader="onnx").close()
    # In a process of its own: a process uses the stages that it ran until it ends.
    code = f"import llmasos; llmasos.load_model({str(place)!r}, loader='onnx', accelerate=[{{'use': 'quant', 'bits': 8}}]).close()"
    done = fork_server.said(folder=home, code=code, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    load_model(home / "other", loader="onnx").close()
    (listed,) = verb("list")["models"]
    assert (listed["built"], listed["stages"]) == (2, 1)
    assert listed["built_size"] > listed["stages_size"] > 0
    assert verb("remove", "hf:org/tiny")["freed"] > listed["size"] + listed["built_size"]
    (left,) = Builds().all()
    assert left.models == (home / "other",)
    assert StageCache(cache_folder() / "acceleration" / "stages").entries() == ()
    assert verb("clean", "--days", "1")["builds"] == 0
    assert verb("clean")["builds"] == left.size


def test_a_config_bounds_what_loaders_keep(home: Path) -> None:
    """After a load the engines used longest ago go, as far as the limit asks."""
    tiny_checkpoint(folder=home / "tiny")
    old = build(Builds()._root, "old", 5000, home / "gone", days=1)
    load_model(home / "tiny", loader="onnx").close()
    assert old.is_dir()
    (home / "llmasos.toml").write_text('[resources]\nloader_cache = "1kB"\n')
    assert invoke(["run", "--raw", "x", "-m", str(home / "tiny"), "--loader", "onnx", "-n", "1"]) == 0
    assert not old.exists()
