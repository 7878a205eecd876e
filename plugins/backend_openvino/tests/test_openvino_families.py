"""Every family that ``DecoderConfig`` describes runs on OpenVINO as transformers computes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from llmasos_backend_openvino.hooks import llmasos_component
from llmasos_backend_openvino.session import Session
from llmasos_hookspecs import (
    DECODER_FAMILIES,
    CapacityExceeded,
    DecoderConfig,
    Engine,
    EngineLimits,
    QuantizedTensor,
    Row,
    UnsupportedModel,
)
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import quantize
from llmasos_hookspecs.testing.families import FAMILY_CASES, FAMILY_SIZES, ROPE_CASES

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

CONTEXT: Final = 160
#: Relative error of logits, all in float32.
EXACT: Final = 3e-6
SIZES: Final = {**FAMILY_SIZES, "max_position_embeddings": CONTEXT}
#: Refused: PagedAttention does not cap scores.
CAPPED: Final = "gemma2"
#: What people run most, and one of each form, with all that these sizes let act; the others take three times as long again.
_COMMON: Final = frozenset(("llama", "gemma", "gemma3_text", "granite", "smollm3", "olmo2", "starcoder2", "stablelm", "cohere", "cohere2"))

_CASES: Final = [
    *((kind, changes, bool(changes) and kind in _COMMON) for kind, changes in FAMILY_CASES if kind != CAPPED),
    *((kind, {"rope_parameters": rope}, kind == "phi3") for kind, rope in ROPE_CASES),
    ("llama", {"head_dim": 10}, False),
]
CASES: Final = [pytest.param(kind, changes, marks=() if fast else pytest.mark.slow) for kind, changes, fast in _CASES]
LONGROPE: Final = dict(ROPE_CASES)["phi3"]

TOKENS: Final = [int(token) for token in np.random.default_rng(0).integers(3, 131, CONTEXT)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads of torch that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Made:
    """A tiny random model of transformers, and the same weights as a checkpoint."""

    format = "huggingface"
    path = Path("made")
    digest = "0" * 64

    def __init__(self, kind: str, changes: dict[str, Any]) -> None:
        torch.manual_seed(0)
        made = transformers.AutoConfig.for_model(kind, **{**SIZES, **changes})
        self.model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").float().eval()
        for parameter in self.model.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = parameter.data + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise
        self.config = made.to_dict()
        self.decoder = DecoderConfig.from_dict(self.config)
        self.codes: dict[str, QuantizedTensor] = {}
        # Files call the head of some models otherwise than the model in memory does.
        self.state = {name.replace("lm_head", self.decoder.names.head): tensor for name, tensor in self.model.state_dict().items()}

    def names(self) -> list[str]:
        return list(self.state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.state[name].shape)

    def tensor(self, name: str) -> Any:
        return self.codes.get(name, self.state[name].numpy())

    def encode(self) -> None:
        """Round every matrix of the layers to 4-bit codes, and the model to what they stand for."""
        for name, tensor in self.model.state_dict().items():
            if tensor.dim() == 2 and ".layers." in name:
                self.codes[name] = quantize(tensor.numpy(), 4, 16, "minimums")
                tensor.copy_(torch.from_numpy(self.codes[name].dequantize()))

    def logits(self, tokens: list[int]) -> Any:
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].numpy()

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """Without a cache: what a longer sequence is rotated by, its beginning is too."""
        with torch.inference_mode():
            out = self.model.generate(torch.tensor([tokens]), max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=False)
        return out[0, len(tokens) :].tolist()


def error(got: Any, want: Any) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def load(made: Made, root: Path, precision: str = "f32") -> Engine:
    plugin = PluginSandbox("llmasos_backend_openvino")
    context = SandboxContext(root=root, limits=EngineLimits(max_sequences=3))
    engine: Engine = plugin.call(
        "llmasos_load", checkpoint=made, options=plugin.options(precision=precision, prefill_chunk=64), context=context
    )
    return engine


def fed(engine: Engine, slot: int, tokens: list[int], at: int = 0) -> Any:
    return np.array(engine.step([Row(slot, tokens, at, "all")])[0])


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain")
def test_a_family_is_computed_as_transformers_computes_it(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Logits over the whole context in one piece, in chunks and in a batch, and 64 greedy tokens."""
    made = Made(kind, changes)
    engine = load(made, tmp_path)
    assert engine.info.context_length == CONTEXT
    switch = next((rope.switch for rope in [made.decoder.layer(0).rope] if rope is not None), None)
    want = made.logits(TOKENS)
    one, pieces, other = engine.open(), engine.open(), engine.open()
    assert error(fed(engine, one, TOKENS), want) < EXACT
    found = [fed(engine, pieces, TOKENS[:7]), fed(engine, pieces, TOKENS[7:8], 7)]
    together = [np.array(each) for each in engine.step([Row(pieces, TOKENS[8:70], 8, "all"), Row(other, TOKENS[5:25], 0, "all")])]
    found += [together[0], fed(engine, pieces, TOKENS[70:], 70)]
    beginning = 0 if switch is None else 70  # pieces of a text that is still short are rotated as such
    assert error(np.concatenate(found)[beginning:], want[beginning:]) < EXACT
    assert error(together[1], made.logits(TOKENS[5:25])) < EXACT
    engine.truncate(one, 20)
    engine.close(other)
    fork = engine.fork(one)
    assert error(fed(engine, fork, TOKENS[20:24], 20), made.logits(TOKENS[:24])[20:]) < EXACT
    expected = made.greedy(TOKENS[:20], 64)
    produced, feed = [], TOKENS[19:20]
    engine.truncate(one, 19)
    for at in range(64):
        logits = engine.step([Row(one, feed, 19 + at)])[0][-1].copy()
        logits[2] = -np.inf  # the end token, which is not chosen before 64 others were
        feed = [int(logits.argmax())]
        produced += feed
    assert produced == expected
    engine.shutdown()


@pytest.mark.parametrize("kind", ["phi3", "gpt_neox", "cohere"])
def test_codes_are_laid_out_as_floats_are(kind: str, tmp_path: Path) -> None:
    """Parts of fused tensors, heads and channels keep their places in codes with float minimums."""
    made = Made(kind, {})
    made.encode()
    engine = load(made, tmp_path)
    assert engine.info.dtype == "int4"
    assert error(fed(engine, engine.open(), TOKENS), made.logits(TOKENS)) < EXACT
    engine.shutdown()


def longrope() -> Made:
    rope = {**LONGROPE, "original_max_position_embeddings": 32}
    return Made("phi3", {"original_max_position_embeddings": 32, "rope_parameters": rope})


def test_a_step_that_fails_where_the_rotation_changes_leaves_the_slot_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out while what a slot holds is computed again: the slot goes on as before, short or long, and so does its fork."""
    made = longrope()
    engine: Any = load(made, tmp_path)
    slot, run = engine.open(), Session.run
    fed(engine, slot, TOKENS[:30])
    fork = engine.fork(slot)

    def fail_after_writing(*arguments: Any) -> Any:
        run(*arguments)
        raise CapacityExceeded("no memory")

    monkeypatch.setattr(Session, "run", fail_after_writing)
    with pytest.raises(CapacityExceeded):
        fed(engine, slot, TOKENS[30:40], 30)
    monkeypatch.undo()
    assert error(fed(engine, slot, TOKENS[30:32], 30), made.logits(TOKENS[:32])[30:]) < EXACT
    assert error(fed(engine, slot, TOKENS[32:40], 32), made.logits(TOKENS[:40])[32:]) < EXACT
    assert error(fed(engine, fork, TOKENS[30:32], 30), made.logits(TOKENS[:32])[30:]) < EXACT
    engine.truncate(slot, 10)
    assert error(fed(engine, slot, TOKENS[10:12], 10), made.logits(TOKENS[:12])[10:]) < EXACT
    engine.shutdown()


def test_long_and_short_sequences_share_a_step(tmp_path: Path) -> None:
    """Each row is rotated by the length of its own sequence."""
    made = longrope()
    engine = load(made, tmp_path)
    rows = [Row(engine.open(), TOKENS[:60], 0, "all"), Row(engine.open(), TOKENS[5:25], 0, "all")]
    long, short = engine.step(rows)
    assert error(long, made.logits(TOKENS[:60])) < EXACT
    assert error(short, made.logits(TOKENS[5:25])) < EXACT
    engine.shutdown()


def test_what_is_not_computed_is_said_before_loading(tmp_path: Path) -> None:
    """The loader neither takes nor loads a decoder with a trait that it does not know."""
    component = llmasos_component()
    assert component.takes is not None
    assert set(component.architectures) == set(DECODER_FAMILIES)
    made: Any = Made("llama", {})
    assert component.takes(made) is None
    made.decoder = attrs.evolve(made.decoder, activation="mish", attention_softcap=2.0)
    reason = "it has attention softcap, mish activation"
    assert component.takes(made) == reason
    assert component.takes(attrs.evolve(tiny_checkpoint("llama"), config={**tiny_checkpoint("llama").config, "model_type": CAPPED}))
    with pytest.raises(UnsupportedModel, match=reason):
        load(made, tmp_path)
