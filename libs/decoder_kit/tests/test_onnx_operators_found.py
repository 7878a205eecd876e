"""Operators for ONNX Runtime are found by their entry points."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llmasos_decoder_kit import installed
from llmasos_decoder_kit.onnx_operators import GROUP, OnnxOperators, PackedLinear, find_operators
from llmasos_hookspecs import ConfigError, PluginError


class Fast:
    """Operators that are faster everywhere."""

    name, library = "fast/1", Path("fast.so")

    def refusal(self) -> str | None:
        return None

    def linear(self, tensors: object) -> PackedLinear | None:
        return None


class Slow(Fast):
    name = "slow/1"

    def refusal(self) -> str | None:
        return "it is an abacus"


class Broken(Fast):
    def __init__(self) -> None:
        raise OSError("no such library")


def install(monkeypatch: pytest.MonkeyPatch, **classes: type[OnnxOperators]) -> None:
    points = [EntryPoint(name, f"{__name__}:{found.__name__}", GROUP) for name, found in classes.items()]
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(installed.metadata, "entry_points", lambda group: points if group == GROUP else [])
    installed._points.cache_clear()


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    """What a test pretends to be installed is not there for the next."""
    yield
    installed._points.cache_clear()


def test_a_package_is_found_that_is_installed_while_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no longer found once it was removed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "kernels_of_a_test", sys.modules[__name__])
    assert "later" not in installed._points(GROUP, installed._folders())
    package = tmp_path / "later-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{GROUP}]\nlater = kernels_of_a_test:Fast\n")
    os.utime(tmp_path, ns=(1, 1))  # a file system may tell the time in steps
    assert isinstance(find_operators("later"), Fast)
    shutil.rmtree(package)
    os.utime(tmp_path, ns=(2, 2))
    with pytest.raises(ConfigError, match="no installed package offers operators of that name"):
        find_operators("later")


def test_auto_takes_the_first_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, a=Slow, b=Fast)
    assert isinstance(find_operators("auto"), Fast)
    install(monkeypatch, a=Slow)
    assert find_operators("auto") is None
    install(monkeypatch)
    assert find_operators("auto") is None


def test_a_name_takes_them_whether_they_are_faster_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, a=Slow, b=Fast)
    assert isinstance(find_operators("a"), Slow)


def test_a_name_that_is_not_installed_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, b=Fast, a=Slow)
    with pytest.raises(ConfigError, match=r'kernels is "cpu".*\(installed: a, b\); pip install llmasos-kernels-cpu, or leave it'):
        find_operators("cpu")
    install(monkeypatch)
    with pytest.raises(ConfigError, match=r"\(installed: none are\); pip install llmasos-kernels-cpu,"):
        find_operators("cpu_bf16")


def test_operators_that_cannot_be_made_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, a=Broken)
    with pytest.raises(PluginError, match=r'The operators "a" .* cannot be loaded: no such library; install it again\.'):
        find_operators("auto")
