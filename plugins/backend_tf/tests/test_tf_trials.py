"""A SavedModel is tried when it is loaded: what it computes rightly is used, and what it does not is refused then, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, Engine, Row, UnsupportedModel

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 48, 30)]

Export = Callable[..., Any]
Load = Callable[..., Engine]


def close(found: Any, expected: Any) -> None:
    assert np.linalg.norm(np.concatenate(found) - expected) <= 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"mask": True, "positions": True},
        {"rows": 2},
        {"length": 32},
        pytest.param({"rows": 2, "length": 32, "mask": True}, marks=pytest.mark.long),
        {"last_only": True},
        pytest.param({"last_only": True, "rows": 2}, marks=pytest.mark.long),
        {"mixed": True},
        {"table": 31},
    ],
    ids=lambda form: "-".join(form) or "plain",
)
def test_forms_that_are_used_rightly(form: dict[str, Any], export: Export, load_tf: Load) -> None:
    """Inputs by name and in any order, a fixed batch, a fixed length, the last token's logits only, sequences that change one another,
    a table shorter than the context: alone, in chunks and in a batch the logits are those of the whole text."""
    model = export(**form)
    engine = load_tf(model.path, context=64)
    expected = model.logits(TOKENS)
    if form.get("mixed"):  # the model adds the first token to itself
        expected = None
    slot, other = engine.open(), engine.open()
    found = [engine.step([Row(slot, TOKENS[:5], 0, "all")])[0]]
    both = engine.step([Row(slot, TOKENS[5:12], 5, "all"), Row(other, TOKENS[:9], 0, "last")])
    found.append(both[0])
    found += [engine.step([Row(slot, [TOKENS[i]], i)])[0] for i in range(12, 20)]
    found.append(engine.step([Row(slot, TOKENS[20:], 20, "all")])[0])
    if expected is None:
        alone = engine.open()
        close(found, engine.step([Row(alone, TOKENS, 0, "all")])[0])
        assert any("take turns" in note for note in engine.info.notes)
        assert "batch" not in engine.info.features
    else:
        close(found, expected)
        close([both[1]], expected[8:9])


def test_a_context_longer_than_the_position_table_is_cut_to_it(export: Export, load_tf: Load) -> None:
    """A model computes every length up to the context it is said to have, which is that of its own table."""
    model = export(table=20)
    for config in ({}, {"max_position_embeddings": 64}):
        engine = load_tf(model.path, **config)
        assert engine.info.context_length == 20
        assert any("20 tokens at most" in note for note in engine.info.notes)
        slot = engine.open()
        close([engine.step([Row(slot, [TOKENS[i]], i)])[0] for i in range(20)], model.logits(TOKENS[:20]))


def test_a_context_that_a_file_claims_is_not_computed_beyond_reason(export: Export, load_tf: Load) -> None:
    """A config that says a billion tokens costs no more at load than one that says 4,096."""
    engine = load_tf(export(table=8192).path, max_position_embeddings=10**9)
    assert engine.info.context_length == 10**9
    engine = load_tf(export(table=64).path, max_position_embeddings=10**9)
    assert engine.info.context_length == 64


@pytest.mark.parametrize(
    ("form", "kind", "sentence"),
    [
        ({"causal": False}, UnsupportedModel, "other logits for a token when more tokens follow it.*causal mask"),
        ({"causal": False, "length": 32}, UnsupportedModel, "padding changes the logits"),
        ({"last_only": True, "length": 32}, UnsupportedModel, "gives logits of the last one only"),
        ({"length": 0}, UnsupportedModel, "takes no sequences, or sequences of no tokens"),
        pytest.param({"rows": 0}, UnsupportedModel, "takes no sequences, or sequences of no tokens", marks=pytest.mark.long),
        ({"rows": 64, "length": 4096, "table": 4096}, UnsupportedModel, "64 sequences of 4096 tokens always"),
        ({"mixed": True, "rows": 2}, UnsupportedModel, "change one another's logits"),
        ({"poison": float("nan")}, CheckpointError, "a weight that is NaN or infinite"),
        pytest.param({"poison": float("inf")}, CheckpointError, "a weight that is NaN or infinite", marks=pytest.mark.long),
        ({"and_then": lambda out: out / 0.0}, UnsupportedModel, "gives logits that are NaN or infinite"),
        pytest.param({"and_then": lambda out: out[:, :3]}, UnsupportedModel, "logits of the shape", marks=pytest.mark.long),
        ({"and_then": lambda out: out[:, :4]}, UnsupportedModel, "logits of the shape .* for 1 sequence of 10 tokens"),
        pytest.param({"and_then": lambda out: out[:, 3:]}, UnsupportedModel, "logits of the shape", marks=pytest.mark.long),
        pytest.param({"and_then": lambda out: out[:, :, :0]}, UnsupportedModel, "logits of the shape", marks=pytest.mark.long),
        ({"and_then": lambda out: out[:0]}, UnsupportedModel, "logits of the shape"),
    ],
)
def test_what_cannot_be_used_is_refused_at_load(
    form: dict[str, Any], kind: type[Exception], sentence: str, export: Export, load_tf: Load
) -> None:
    """No causal mask, the last token's logits of a padded text, a fixed batch that mixes its sequences, and numbers that are none."""
    with pytest.raises(kind, match=sentence) as caught:
        load_tf(export(**form).path, context=64)
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_one_row_whatever_it_is_given_computes_sequences_in_turn(export: Export, load_tf: Load) -> None:
    model = export(and_then=lambda out: out[:1])
    engine = load_tf(model.path, context=64)
    assert "batch" not in engine.info.features
    close([engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]], model.logits(TOKENS))


def test_other_inputs_are_named(export: Export, load_tf: Load) -> None:
    """A signature that takes more than it can be given is refused with its inputs."""
    import tensorflow as tf

    path = export().path.parent / "other"
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, name=name) for name in ("input_ids", "token_type_ids")])
    def serve(input_ids: Any, token_type_ids: Any) -> Any:
        return {"logits": tf.one_hot(input_ids + token_type_ids, 48)}

    tf.saved_model.save(module, str(path), signatures=serve)
    with pytest.raises(UnsupportedModel, match=r"serving_default\(input_ids, token_type_ids\) -> logits"):
        load_tf(path)
