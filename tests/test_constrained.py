"""Every kind of JSON Schema that is asked for is kept, at temperature 1, on random weights that know nothing of JSON."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import settings

import llmasos
from llmasos_hookspecs.testing import tiny_checkpoint

pytest.importorskip("jsonschema")


def test_constrained_texts_parse_and_validate(tmp_path: Path) -> None:
    """One generation of each of 20 schemas, `make test-long` two; what the limit cut says so. benchmarks/constrained.py does 1,000 on real
    weights."""
    count = 40 if settings.default.max_examples >= 500 else 20
    path = Path(__file__).parents[1] / "benchmarks" / "constrained.py"
    spec = importlib.util.spec_from_file_location("benchmarks_constrained", path)
    assert spec is not None
    assert spec.loader is not None
    constrained = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constrained)
    tiny_checkpoint(folder=tmp_path / "tiny", max_position_embeddings=512)
    with llmasos.load_model(tmp_path / "tiny", loader="onnx", threads=1) as model:
        found = constrained.prove(model, count, max_new_tokens=300)
    assert found["violations"] == []
    assert found["generations"] == count
    assert found["finish_reasons"].get("stop", 0) >= count // 2
