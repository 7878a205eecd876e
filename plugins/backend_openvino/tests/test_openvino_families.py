"""Every family that ``DecoderConfig`` describes runs on OpenVINO as transformers computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from llmasos_backend_openvino.hooks import llmasos_component
from llmasos_backend_openvino.precision import has_bfloat16
from llmasos_backend_openvino.session import Session
from llmasos_hookspecs import (
    DECODER_FAMILIES,
    CapacityExceeded,
    Engine,
    EngineLimits,
    Row,
    UnsupportedModel,
)
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.families import FAMILY_CASES, ROPE_CASES
from llmasos_hookspecs.testing.family_model import FAMILY_TOKENS, FamilyModel, all_logits, compare_with_family_model, relative_difference

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

#: Relative error of logits, all in float32.
EXACT: Final = 3e-6
#: One of each form, with all that these sizes let act; the others, which widen this, take as long several times over, and the kit has
#: llama, gemma2 and phi.
_COMMON: Final = frozenset(("gemma3_text", "granite", "olmo2", "stablelm"))
#: Those whose layers are alike, or take turns: two of them are compiled in half the time of four.
_ALIKE: Final = frozenset(("gemma2", "gemma3_text", "granite", "olmo2", "phi3", "gpt_neox", "stablelm", "cohere"))

_CASES: Final = [
    *((kind, changes, kind in _COMMON and bool(changes) and changes.keys() != {"attention_multiplier"}) for kind, changes in FAMILY_CASES),
    *((kind, {"rope_parameters": rope}, kind == "phi3") for kind, rope in ROPE_CASES),
    ("llama", {"head_dim": 10}, False),
]
CASES: Final = [pytest.param(kind, changes, marks=() if fast else pytest.mark.long) for kind, changes, fast in _CASES]
LONGROPE: Final = dict(ROPE_CASES)["phi3"]


def model(kind: str, changes: Mapping[str, Any]) -> FamilyModel:
    return FamilyModel(kind, {**({"num_hidden_layers": 2} if kind in _ALIKE else {}), **changes})


def load(made: FamilyModel, root: Path, precision: str = "f32") -> Engine:
    plugin = PluginSandbox("llmasos_backend_openvino")
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
    """Parts of fused tensors, heads and channels keep their places in codes with float minimums."""
    made = model(kind, {})
    made.quantize()
    engine = load(made, tmp_path)
    assert engine.info.dtype == "int4"
    assert relative_difference(all_logits(engine, engine.open(), FAMILY_TOKENS), made.logits(FAMILY_TOKENS)) < EXACT
    engine.shutdown()


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU")
def test_capped_scores_are_computed_in_bfloat16_too(tmp_path: Path) -> None:
    """Keys and values are written to the blocks in bfloat16, by a prompt and behind it."""
    made = FamilyModel("gemma2", {"sliding_window": 8})
    engine = load(made, tmp_path, "bf16")
    slot = engine.open()
    engine.step([Row(slot, FAMILY_TOKENS[:20], 0, "none")])
    found = np.array(engine.step([Row(slot, FAMILY_TOKENS[20:], 20, "all")])[0])
    assert 1e-4 < relative_difference(found, made.logits(FAMILY_TOKENS)[20:]) < 0.05
    engine.shutdown()


def test_sequences_with_capped_scores_leave_each_others_blocks_alone(tmp_path: Path) -> None:
    """A fork that goes another way beside its origin, in one step, through a block that both held."""
    made = model("gemma2", {})
    engine = load(made, tmp_path)
    slot = engine.open()
    engine.step([Row(slot, FAMILY_TOKENS[:20], 0, "none")])
    fork = engine.fork(slot)
    other = [*FAMILY_TOKENS[:20], *FAMILY_TOKENS[5:10]]
    found = [np.array(each) for each in engine.step([Row(fork, other[20:], 20, "all"), Row(slot, FAMILY_TOKENS[20:25], 20, "all")])]
    assert relative_difference(found[0], made.logits(other)[20:]) < EXACT
    assert relative_difference(found[1], made.logits(FAMILY_TOKENS[:25])[20:]) < EXACT
    engine.shutdown()


def longrope() -> FamilyModel:
    rope = {**LONGROPE, "original_max_position_embeddings": 32}
    return model("phi3", {"original_max_position_embeddings": 32, "rope_parameters": rope})


def test_a_step_that_fails_where_the_rotation_changes_leaves_the_slot_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out while what a slot holds is computed again: the slot goes on as before, short or long, and so does its fork."""
    made = longrope()
    engine: Any = load(made, tmp_path)
    slot, run = engine.open(), Session.run
    all_logits(engine, slot, FAMILY_TOKENS[:30])
    fork = engine.fork(slot)

    def fail_after_writing(*arguments: Any) -> Any:
        run(*arguments)
        raise CapacityExceeded("no memory")

    monkeypatch.setattr(Session, "run", fail_after_writing)
    with pytest.raises(CapacityExceeded):
        all_logits(engine, slot, FAMILY_TOKENS[30:40], 30)
    monkeypatch.undo()
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[30:32], 30), made.logits(FAMILY_TOKENS[:32])[30:]) < EXACT
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[32:40], 32), made.logits(FAMILY_TOKENS[:40])[32:]) < EXACT
    assert relative_difference(all_logits(engine, fork, FAMILY_TOKENS[30:32], 30), made.logits(FAMILY_TOKENS[:32])[30:]) < EXACT
    engine.truncate(slot, 10)
    assert relative_difference(all_logits(engine, slot, FAMILY_TOKENS[10:12], 10), made.logits(FAMILY_TOKENS[:12])[10:]) < EXACT
    engine.shutdown()


def test_long_and_short_sequences_share_a_step(tmp_path: Path) -> None:
    """Each row is rotated by the length of its own sequence."""
    made = longrope()
    engine = load(made, tmp_path)
    rows = [Row(engine.open(), FAMILY_TOKENS[:60], 0, "all"), Row(engine.open(), FAMILY_TOKENS[5:25], 0, "all")]
    long, short = engine.step(rows)
    assert relative_difference(long, made.logits(FAMILY_TOKENS[:60])) < EXACT
    assert relative_difference(short, made.logits(FAMILY_TOKENS[5:25])) < EXACT
    engine.shutdown()


def test_what_is_not_computed_is_said_before_loading(tmp_path: Path) -> None:
    """The loader neither takes nor loads a decoder with a trait that it does not know."""
    component = llmasos_component()
    assert component.takes is not None
    assert set(component.architectures) == set(DECODER_FAMILIES)
    made: Any = FamilyModel("llama", {})
    assert component.takes(made) is None
    made.decoder = attrs.evolve(made.decoder, activation="mish")
    reason = "it has mish activation"
    assert component.takes(made) == reason
    with pytest.raises(UnsupportedModel, match=reason):
        load(made, tmp_path)
