"""SavedModels that take keys and values in and give longer ones back keep a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_backend_tf.framework import import_tensorflow
from llmasos_hookspecs import Engine, Row, UnsupportedModel

Load = Callable[..., Engine]
VOCABULARY, WIDTH = 48, 16
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, VOCABULARY, 30)]


def save(path: Path, *, fault: str = "", last_only: bool = False, transposed: bool = False) -> Callable[[list[int]], Any]:
    """A decoder of one layer with rotated keys; returns its logits of a whole text, from numpy."""
    tf: Any = import_tensorflow()[0]
    rng = np.random.default_rng(0)
    embedding, query, head = (
        rng.standard_normal(shape).astype("f4") for shape in ((VOCABULARY, WIDTH), (WIDTH, WIDTH), (WIDTH, VOCABULARY))
    )
    module = tf.Module()
    module.weights = [tf.Variable(array) for array in (embedding, query, head)]
    frequencies = (100.0 ** -(np.arange(WIDTH // 2) / WIDTH * 2)).astype("f4")
    cache = [None, WIDTH, None] if transposed else [None, None, WIDTH]
    specs = {
        "input_ids": tf.TensorSpec([None, None], tf.int64, name="input_ids"),
        "attention_mask": tf.TensorSpec([None, None], tf.int32, name="attention_mask"),
        "position_ids": tf.TensorSpec([None, None], tf.int32, name="position_ids"),
        "past_key": tf.TensorSpec(cache, tf.float32, name="past_key"),
        "past_value": tf.TensorSpec([None, None, WIDTH], tf.float32, name="past_value"),
    }

    def turned(x: Any, positions: Any) -> Any:
        angles = tf.cast(positions, tf.float32)[..., None] * frequencies
        a, b = tf.split(x, 2, -1)
        return tf.concat([a * tf.cos(angles) - b * tf.sin(angles), b * tf.cos(angles) + a * tf.sin(angles)], -1)

    @tf.function(input_signature=[specs[name] for name in sorted(specs)], autograph=False)
    def serve(attention_mask: Any, input_ids: Any, past_key: Any, past_value: Any, position_ids: Any) -> Any:
        e, q, h = module.weights
        x = tf.gather(e, input_ids)
        past_key = tf.transpose(past_key, (0, 2, 1)) if transposed else past_key
        new, held = tf.shape(x)[1], tf.shape(past_key)[1]
        keys = tf.concat([past_key, turned(x, position_ids - held if fault == "positions" else position_ids)], 1)
        values = tf.concat([past_value, x], 1)
        seen = tf.range(held + new)[None] <= (held if fault != "mask" else 0) + tf.range(new)[:, None]
        if fault == "one token":
            seen = seen & ((tf.range(held + new)[None] < held + 1) | (held == 0))
        scores = tf.einsum("bnd,bmd->bnm", turned(x @ q, position_ids), keys) / WIDTH
        scores += tf.where(seen, 0.0, -1e9)[None] + tf.where(attention_mask[:, None] > 0, 0.0, -1e9)
        out = (x + tf.nn.softmax(scores) @ values) @ h
        if fault == "no logits":
            out = out[:, tf.minimum(held, 1) :]
        present = keys[:, 1:] if fault == "short" else keys
        return {
            "logits": out[:, -1:] if last_only else out,
            "present_key": tf.transpose(present, (0, 2, 1)) if transposed else present,
            "present_value": values,
        }

    tf.saved_model.save(module, str(path), signatures=serve)

    def logits(tokens: list[int]) -> Any:
        x = embedding[tokens]
        angles = np.arange(len(tokens), dtype="f4")[:, None] * frequencies

        def rotate(x: Any) -> Any:
            a, b = np.split(x, 2, -1)
            return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

        scores = rotate(x @ query) @ rotate(x).T / WIDTH + np.triu(np.full((len(tokens),) * 2, -1e9, "f4"), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return (x + weights / weights.sum(-1, keepdims=True) @ x) @ head

    return logits


@pytest.mark.parametrize("form", [{}, {"last_only": True}, {"transposed": True}, {"fault": "one token"}], ids=str)
def test_a_cache_is_kept(form: dict[str, Any], tmp_path: Path, load_tf: Load) -> None:
    """Pieces, single tokens, forks and cuts give the logits of the whole text; each token is computed once."""
    logits = save(tmp_path / "model", **form)
    engine = load_tf(tmp_path / "model", context=64)
    assert "kv_cache" in engine.info.features
    assert engine.info.kv_bytes_per_token == 2 * 4 * WIDTH
    assert any("one token a run" in note for note in engine.info.notes) == (form.get("fault") == "one token")
    slot, expected = engine.open(), logits(TOKENS)
    found = [engine.step([Row(slot, TOKENS[:5], 0, "all")])[0], engine.step([Row(slot, TOKENS[5:12], 5, "all")])[0]]
    found += [engine.step([Row(slot, [TOKENS[i]], i)])[0] for i in range(12, 20)]
    fork = engine.fork(slot)
    both = engine.step([Row(slot, TOKENS[20:], 20, "all"), Row(fork, TOKENS[:1], 20)])
    assert np.linalg.norm(np.concatenate([*found, both[0]]) - expected) <= 2e-6 * np.linalg.norm(expected)
    engine.truncate(slot, 9)
    again = np.concatenate([engine.step([Row(slot, TOKENS[9:15], 9, "last")])[0], engine.step([Row(slot, TOKENS[15:], 15, "none")])[0]])
    assert np.linalg.norm(again - expected[14:15]) <= 2e-6 * np.linalg.norm(expected[14])
    other = logits([*TOKENS[:20], TOKENS[0]])[-1:]
    assert np.linalg.norm(both[1] - other) <= 2e-6 * np.linalg.norm(other)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("positions", "cannot go on behind its cache: its logits are off by"),
        ("mask", "cannot go on behind its cache: its logits are off by"),
        ("short", "gives present_key in the shape"),
        ("no logits", "gives logits of the shape"),
    ],
)
def test_a_cache_that_is_wrong_is_refused(fault: str, sentence: str, tmp_path: Path, load_tf: Load) -> None:
    """Positions that begin anew in each piece, a mask that forgets the cache, and a cache of another length are found at load."""
    save(tmp_path / "model", fault=fault)
    with pytest.raises(UnsupportedModel, match=sentence):
        load_tf(tmp_path / "model", context=64)
