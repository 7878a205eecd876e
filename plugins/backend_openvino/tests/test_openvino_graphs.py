"""The folder of built graphs: found again, checked, and built anew where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_openvino import loading
from llmasos_hookspecs import Row, UnsupportedModel
from llmasos_hookspecs.testing import tiny_checkpoint

CHECKPOINT = tiny_checkpoint("llama-q4-minimums")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision of each graph that is built."""
    found: list[str] = []
    read = loading.WeightReader
    monkeypatch.setattr(loading, "WeightReader", lambda *arguments, **form: found.append(arguments[1]) or read(*arguments, **form))
    return found


def logits(engine: Any) -> Any:
    return np.array(engine.step([Row(engine.open(), [1, 2, 3], 0, "all")])[0])


def files(root: Path, name: str) -> list[Path]:
    return sorted(root.rglob(name))


def test_a_graph_is_built_once(start: Any, builds: list[str], tmp_path: Path) -> None:
    """A second load finds it and gives the same bits; another checkpoint, and another form of the codes, have a graph of their own."""
    first, second = logits(start(CHECKPOINT)), logits(start(CHECKPOINT))
    assert np.array_equal(first, second)
    assert builds == ["f32"]
    start(tiny_checkpoint("llama-q4-zeros"))
    assert builds == ["f32", "f32"]
    start(CHECKPOINT, {"activations": "int8"})
    assert builds == ["f32", "f32", "f32"]
    assert len(files(tmp_path, "decoder.xml")) == 3


#: Each file, and each damage; ``make test-long`` has all of both.
_ON_EACH_CHANGE = (("flipped", "decoder.bin"), ("gone", "index.json"))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(damage, name, marks=() if (damage, name) in _ON_EACH_CHANGE else pytest.mark.long)
        for damage in ("flipped", "cut", "gone")
        for name in ("decoder.xml", "decoder.bin", "index.json")
    ],
)
def test_a_damaged_graph_is_built_again(start: Any, builds: list[str], tmp_path: Path, name: str, damage: str) -> None:
    """One wrong byte, a file that ends early, or one that is missing: none is computed from."""
    first = start(CHECKPOINT)
    expected = logits(first)
    first.shutdown()
    (path,) = files(tmp_path, name)
    contents = bytearray(path.read_bytes())
    if damage == "flipped":
        contents[len(contents) // 2] ^= 0x55
    path.write_bytes(contents[: len(contents) // 2] if damage == "cut" else contents)
    if damage == "gone":
        path.unlink()
    assert np.array_equal(logits(start(CHECKPOINT)), expected)
    assert builds == ["f32", "f32"]


def test_a_build_that_fails_leaves_nothing(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a folder nor a part of one."""

    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading.ov, "serialize", fail)
    with pytest.raises(KeyboardInterrupt):
        start(CHECKPOINT)
    assert files(tmp_path, "decoder.*") == files(tmp_path, "*.partial") == []
    monkeypatch.undo()
    logits(start(CHECKPOINT))


def test_another_format_is_refused(start: Any) -> None:
    """The sentence names the formats that are taken."""
    with pytest.raises(UnsupportedModel, match="takes huggingface, gguf and openvino"):
        start(attrs.evolve(tiny_checkpoint("llama"), format="onnx"))
