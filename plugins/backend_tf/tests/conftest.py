"""What the tests of foreign TensorFlow models share: a small decoder as a SavedModel of any signature, and a way to load models."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_tf.framework import import_tensorflow
from llmasos_hookspecs import Engine, EngineLimits
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, tiny_checkpoint

VOCABULARY, WIDTH = 48, 16


@pytest.fixture(scope="module")
def keras_hub() -> Any:
    """KerasHub, imported and left out of garbage collections: Keras runs one for each attribute that a layer loses."""
    from llmasos_backend_tf.framework import import_keras_hub

    found = import_keras_hub()
    gc.collect()
    gc.freeze()
    return found


@attrs.frozen(kw_only=True)
class Exported:
    """A saved decoder of one layer: ``logits`` are those of the whole text, from numpy."""

    path: Path
    logits: Callable[[list[int]], Any]


def _written(
    path: Path,
    *,
    rows: int | None = None,
    length: int | None = None,
    table: int = 128,
    last_only: bool = False,
    causal: bool = True,
    mixed: bool = False,
    mask: bool = False,
    positions: bool = False,
    poison: float = 0.0,
    and_then: Callable[[Any], Any] = lambda logits: logits,
    extra: Any = None,
) -> Exported:
    """A decoder written with ``tf.saved_model.save``."""
    tf: Any = import_tensorflow()[0]
    rng = np.random.default_rng(0)
    embedding, places, query, head = (
        rng.standard_normal(shape).astype("f4") for shape in ((VOCABULARY, WIDTH), (table, WIDTH), (WIDTH, WIDTH), (WIDTH, VOCABULARY))
    )
    query[0, 0] += poison
    module = tf.Module()
    module.weights = [tf.Variable(array) for array in (embedding, places, query, head)]
    module.extra = extra

    def decode(ids: Any, at: Any) -> Any:
        e, p, q, h = module.weights
        x = tf.gather(e, ids) + tf.gather(p, at)
        seen = tf.linalg.band_part(tf.ones((tf.shape(ids)[1],) * 2), -1, 0 if causal else -1)
        scores = tf.einsum("bnd,de,bme->bnm", x, q, x) / WIDTH + tf.where(seen > 0, 0.0, -1e9)
        x += tf.einsum("bnm,bmd->bnd", tf.nn.softmax(scores), x)
        if mixed:
            x += tf.reduce_mean(x[:, :1], 0, keepdims=True)
        out = x @ h
        return {"logits": and_then(out[:, -1:] if last_only else out)}

    names = ["input_ids", *(["attention_mask"] if mask else []), *(["position_ids"] if positions else [])]
    dtypes = {"input_ids": tf.int32, "attention_mask": tf.bool, "position_ids": tf.int64}

    @tf.function(input_signature=[tf.TensorSpec((rows, length), dtypes[name], name=name) for name in reversed(names)], autograph=False)
    def serve(*given: Any) -> Any:
        by_name = dict(zip(reversed(names), given, strict=True))
        ids = by_name["input_ids"]
        return decode(ids, by_name.get("position_ids", tf.broadcast_to(tf.range(tf.shape(ids)[1]), tf.shape(ids))))

    tf.saved_model.save(module, str(path), signatures=serve)

    def logits(tokens: list[int]) -> Any:
        x = embedding[tokens] + places[: len(tokens)]
        scores = x @ query @ x.T / WIDTH + np.triu(np.full((len(tokens), len(tokens)), -1e9, "f4"), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return (x + weights / weights.sum(-1, keepdims=True) @ x) @ head

    return Exported(path=path, logits=logits)


@pytest.fixture(scope="session")
def kept_exports() -> dict[object, Exported]:
    """What ``export`` has written."""
    return {}


@pytest.fixture
def export(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kept_exports: dict[object, Exported]) -> Callable[..., Exported]:
    """Writes a decoder into the test's own folder; one of plain values is traced once, and copied."""

    def write(**form: Any) -> Exported:
        path = tmp_path / "model"
        if form.keys() & {"and_then", "extra"}:
            return _written(path, **form)
        key = tuple(sorted(form.items()))
        if key not in kept_exports:
            kept_exports[key] = _written(tmp_path_factory.mktemp("export") / "model", **form)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(kept_exports[key].path, path)
        return attrs.evolve(kept_exports[key], path=path)

    return write


@pytest.fixture
def load_tf(tmp_path: Path) -> Callable[..., Engine]:
    """Loads a SavedModel or Keras model with the plugin."""

    def load(path: Path, format: str = "saved_model", *, context: int | None = None, **config: Any) -> Engine:  # noqa: A002
        checkpoint = attrs.evolve(tiny_checkpoint("llama"), path=path, format=format, tensors={}, config=config)
        plugin = PluginSandbox("llmasos_backend_tf")
        limits = EngineLimits(threads=1, max_sequences=4, context_length=context)
        engine: Engine = plugin.call(
            "llmasos_load", checkpoint=checkpoint, options=plugin.options(), context=SandboxContext(root=tmp_path, limits=limits)
        )
        return engine

    return load
