"""Programs of torch.export: computed, and refused where they could run code."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmasos_hookspecs import CheckpointError, ConfigError, Engine, LLMasOSError, Row, UnsupportedModel

Saved = Callable[[str], tuple[PreTrainedModel, Path]]
Load = Callable[..., Engine]


class Logits(nn.Module):
    """A decoder as people export it."""

    def __init__(self, model: PreTrainedModel, masked: bool = False) -> None:
        super().__init__()
        self.model = model
        self.masked = masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def export(model: PreTrainedModel, path: Path, *, fixed: bool = False, masked: bool = False) -> Path:
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    length = torch.export.Dim("length", min=2, max=64)
    given = (tokens, torch.ones_like(tokens)) if masked else (tokens,)
    shapes: dict[str, Any] = {"input_ids": {1: length}, **({"attention_mask": {1: length}} if masked else {})}
    torch.export.save(torch.export.export(Logits(model), given, dynamic_shapes=None if fixed else shapes), str(path))
    return path


@pytest.fixture(scope="module")
def program(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model, _ = saved("llama")
    return model, export(model, tmp_path_factory.mktemp("pt2") / "model.pt2")


def check(engine: Engine, model: PreTrainedModel) -> None:
    tokens = [int(token) for token in np.random.default_rng(1).integers(3, 160, 20)]
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    slot, other = engine.open(), engine.open()
    first, beside = engine.step([Row(slot, tokens[:1], 0), Row(other, tokens[:9], 0, "all")])
    np.testing.assert_allclose(first, wanted[:1], atol=2e-3)
    np.testing.assert_allclose(beside, wanted[:9], atol=2e-3)
    engine.step([Row(slot, tokens[1:12], 1, "none")])
    engine.truncate(slot, 7)
    np.testing.assert_allclose(engine.step([Row(slot, tokens[7:], 7, "all")])[0], wanted[7:], atol=2e-3)
    copy = engine.fork(other)
    np.testing.assert_allclose(engine.step([Row(copy, tokens[9:10], 9)])[0], wanted[9:10], atol=2e-3)
    for each in (slot, other, copy):
        engine.close(each)


def test_any_length(program: tuple[PreTrainedModel, Path], load_engine: Load) -> None:
    """A program of any length gives the model's logits, and the engine says that it recomputes."""
    model, path = program
    engine = load_engine(path)
    assert engine.info.context_length == 64
    assert engine.info.features == {"fork"}
    assert "no KV cache" in engine.info.notes[0]
    check(engine, model)


@pytest.mark.parametrize("masked", [False, True])
def test_fixed_length(masked: bool, saved: Saved, tmp_path: Path, load_engine: Load) -> None:
    """A program of one length takes shorter sequences, padded behind, with or without an attention mask."""
    model, _ = saved("llama")
    engine = load_engine(export(model, tmp_path / "fixed.pt2", fixed=True, masked=masked))
    assert engine.info.context_length == 24
    check(engine, model)


def test_another_signature_is_refused(tmp_path: Path, load_engine: Load) -> None:
    """A program that is no decoder is refused with what was expected."""
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 4), (torch.zeros(1, 4),)), str(path))
    with pytest.raises(UnsupportedModel, match="input_ids"):
        load_engine(path)


def test_its_precision_is_its_own(program: tuple[PreTrainedModel, Path], load_engine: Load) -> None:
    """A precision that the program does not have is refused."""
    with pytest.raises(ConfigError, match="float32"):
        load_engine(program[1], dtype="int8")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return target


class Touch:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_an_archive_runs(program: tuple[PreTrainedModel, Path], tmp_path: Path, load_engine: Load) -> None:
    """Pickles of more than tensors, operators outside ATen, sizes that are code and compiled libraries are refused, and nothing ran."""
    trace = tmp_path / "ran"
    call = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def graph(**changes: str) -> Callable[[str, bytes], bytes]:
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith("model.json"):
                return data
            text = data.decode()
            for old, new in changes.items():
                key = "target" if old == "operator" else "expr_str"
                first = next(value for value in json_strings(json.loads(text), key) if value.startswith("torch.ops") or key == "expr_str")
                text = text.replace(json.dumps(first), json.dumps(new))
            return text.encode()

        return change

    def sample(name: str, data: bytes) -> bytes:
        return pickle.dumps(Touch(trace)) if name.endswith("sample_inputs/model.pt") else data

    wrong = {
        "pickle": rewritten(program[1], tmp_path / "pickle.pt2", sample),
        "torch.os.system": rewritten(program[1], tmp_path / "operator.pt2", graph(operator="torch.os.system")),
        "no arithmetic": rewritten(program[1], tmp_path / "size.pt2", graph(size=call)),
        "aotinductor": rewritten(program[1], tmp_path / "library.pt2", lambda _, data: data, {"model/data/aotinductor/model/a.so": b"x"}),
    }
    for what, path in wrong.items():
        with pytest.raises(CheckpointError, match=what) as caught:
            load_engine(path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def json_strings(node: Any, key: str, name: str = "") -> list[str]:
    if isinstance(node, str):
        return [node] if name == key else []
    if isinstance(node, dict):
        return [found for inner, value in node.items() for found in json_strings(value, key, inner)]
    return [found for value in node for found in json_strings(value, key, name)] if isinstance(node, list) else []


def test_a_truncated_archive_is_refused(program: tuple[PreTrainedModel, Path], tmp_path: Path, load_engine: Load) -> None:
    """Half an archive is a sentence."""
    path = tmp_path / "half.pt2"
    path.write_bytes(program[1].read_bytes()[:40_000])
    with pytest.raises(LLMasOSError, match="damaged") as caught:
        load_engine(path)
    assert "\n" not in str(caught.value)
