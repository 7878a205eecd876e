"""Every family that ``DecoderConfig`` describes runs on TensorFlow as transformers computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from llmasos_hookspecs import DECODER_FAMILIES, CapacityExceeded, Engine, EngineLimits, UnsupportedModel
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.family_model import FAMILY_TOKENS, FamilyModel, all_logits, compare_with_family_model, relative_difference

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

#: Relative error of logits, all in float32.
EXACT: Final = 2e-6
_WINDOW: Final = {"sliding_window": 8}
_BIASES: Final = {"attention_bias": True, "mlp_bias": True}
_SOFTCAPS: Final = {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
_MULTIPLIERS: Final = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
_ORIGINAL: Final = {"rope_theta": 1e4, "original_max_position_embeddings": 32}
_LONG: Final = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}

#: What families leave at a default that would not act within these sizes.
_ACTS: Final[dict[str, dict[str, Any]]] = {
    "mistral": _WINDOW,
    "ministral": {**_WINDOW, "layer_types": ["full_attention", "sliding_attention"] * 2},
    "qwen2": {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {**_WINDOW, **_BIASES, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 2},
    "gemma2": {**_WINDOW, **_SOFTCAPS},
    "gemma3_text": {**_WINDOW, **_SOFTCAPS, "sliding_window_pattern": 2},
    "granite": {**_MULTIPLIERS, **_BIASES},
    "smollm3": {**_WINDOW, **_BIASES, "use_sliding_window": True},
    "olmo3": _WINDOW,
    "phi3": _WINDOW,
    "starcoder2": _WINDOW,
    "stablelm": {"use_qkv_bias": True, "use_parallel_residual": True},
    "cohere2": {**_WINDOW, "sliding_window_pattern": 2},
    "nemotron": _BIASES,
    "exaone4": {**_WINDOW, "sliding_window_pattern": 2},
}
#: One of each form; the others, which widen this, take as long again. The kit has llama, test_layers_by_kernels.py gemma2 and phi.
_COMMON: Final = frozenset(("gemma3_text", "granite", "olmo2"))

_FAMILIES: Final = [(kind, _ACTS.get(kind, {})) for kind in DECODER_FAMILIES]
_MORE: Final[list[tuple[str, dict[str, Any]]]] = [
    ("llama", {"head_dim": 10, **_BIASES}),
    ("llama", {"hidden_act": "gelu", "rope_parameters": {"rope_type": "yarn", "factor": 4.0, **_ORIGINAL}}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
    ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": {"rope_type": "longrope", **_LONG, **_ORIGINAL}}),
    ("starcoder2", {"use_bias": False, "hidden_act": "relu"}),
    ("gpt_neox", {"use_parallel_residual": False}),
]
CASES: Final = [
    *(pytest.param(kind, changes, marks=() if kind in _COMMON else pytest.mark.long) for kind, changes in _FAMILIES),
    *(pytest.param(kind, changes, marks=() if kind == "phi3" else pytest.mark.long) for kind, changes in _MORE),
]


#: Those whose layers are alike, or take turns: two of them are traced in half the time of four.
_ALIKE: Final = frozenset(("gemma3_text", "granite", "olmo2", "phi3", "gpt_neox", "cohere"))


def model(kind: str, changes: Mapping[str, Any]) -> FamilyModel:
    return FamilyModel(kind, {**({"num_hidden_layers": 2} if kind in _ALIKE else {}), **changes})


def load(made: FamilyModel, root: Path, precision: str = "fp32") -> Engine:
    plugin = PluginSandbox("llmasos_backend_tf")
    context = SandboxContext(root=root, limits=EngineLimits(threads=1, max_sequences=3))
    engine: Engine = plugin.call(
        "llmasos_load", checkpoint=made, options=plugin.options(precision=precision, prefill_chunk=64), context=context
    )
    return engine


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain")
def test_a_family_is_computed_as_transformers_computes_it(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Logits over the whole context in one piece, in chunks and in a batch, and 24 greedy tokens."""
    made = model(kind, changes)
    engine = load(made, tmp_path)
    compare_with_family_model(engine, made, EXACT)
    engine.shutdown()


@pytest.mark.parametrize("kind", ["phi3", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gpt_neox", "cohere"))])
def test_codes_are_laid_out_as_floats_are(kind: str, tmp_path: Path) -> None:
    """Parts of fused tensors, heads and channels keep their places in 8 bits: the logits differ by rounding alone."""
    made = model(kind, _ACTS.get(kind, {}))
    engine = load(made, tmp_path, "int8")
    assert relative_difference(all_logits(engine, engine.open(), FAMILY_TOKENS), made.logits(FAMILY_TOKENS)) < 0.05
    engine.shutdown()


def longrope() -> FamilyModel:
    return model("phi3", {"original_max_position_embeddings": 32, "rope_parameters": {"rope_type": "longrope", **_LONG, **_ORIGINAL}})


def test_a_step_that_fails_where_the_rotation_changes_leaves_the_slot_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out while what a slot holds is computed again: the slot goes on as before, short or long."""
    import tensorflow as tf

    made = longrope()
    engine: Any = load(made, tmp_path)
    slot, run = engine.open(), engine._decoder.run
    all_logits(engine, slot, FAMILY_TOKENS[:30])

    def fail_after_writing(*arguments: Any) -> Any:
        run(*arguments)
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    monkeypatch.setattr(engine._decoder, "run", fail_after_writing)
    with pytest.raises(CapacityExceeded):
        all_logits(engine, slot, FAMILY_TOKENS[30:40], 30)
    monkeypatch.undo()
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[30:32], 30), made.logits(FAMILY_TOKENS[:32])[30:]) < EXACT
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[32:40], 32), made.logits(FAMILY_TOKENS[:40])[32:]) < EXACT
    engine.truncate(slot, 10)
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[10:12], 10), made.logits(FAMILY_TOKENS[:12])[10:]) < EXACT
    engine.shutdown()


def test_what_is_not_computed_is_said_before_loading(tmp_path: Path) -> None:
    """The loader takes every family, and neither takes nor loads a decoder with a trait that it does not know."""
    from llmasos_backend_tf.hooks import llmasos_component

    component = llmasos_component()
    assert component.takes is not None
    assert set(component.architectures) == set(DECODER_FAMILIES)
    made: Any = FamilyModel("llama", {})
    assert component.takes(made) is None
    made.decoder = attrs.evolve(made.decoder, activation="mish")
    assert component.takes(made) == "it has mish activation"
    with pytest.raises(UnsupportedModel, match="it has mish activation"):
        load(made, tmp_path)
