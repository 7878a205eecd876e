"""Tiny random models of transformers, and the walk that compares a loader's engine with one; without torch and
transformers the test is skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs.decoder import DecoderConfig
from llmasos_hookspecs.engine import Engine, Row
from llmasos_hookspecs.tensors import QuantizedTensor, Tensor
from llmasos_hookspecs.testing.checkpoints import quantize
from llmasos_hookspecs.testing.families import FAMILY_SIZES

Logits = npt.NDArray[np.float32]

#: Tokens of the context of a ``FamilyModel``.
FAMILY_CONTEXT = 160
#: As many token ids, none of them a special one.
FAMILY_TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, FAMILY_SIZES["vocab_size"], FAMILY_CONTEXT)]


class FamilyModel:
    """A tiny random model of transformers, every parameter random, and the same weights as a ``Checkpoint`` without files.

    Args:
        kind: the model type.
        changes: of its config, over ``FAMILY_SIZES``.
    """

    format = "huggingface"
    path = Path("family-model-in-memory")
    digest = "0" * 64

    def __init__(self, kind: str, changes: Mapping[str, Any]) -> None:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **{**FAMILY_SIZES, "max_position_embeddings": FAMILY_CONTEXT, **changes})
        self._model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        for parameter in self._model.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = parameter.data + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise
        self.config: Mapping[str, Any] = config.to_dict()
        self.manifest: Mapping[str, Any] = {}
        self.decoder = DecoderConfig.from_dict(self.config)
        # Files call the head of some models otherwise than the model in memory does.
        self._state = {name.replace("lm_head", self.decoder.names.head): tensor for name, tensor in self._model.state_dict().items()}
        self._codes: dict[str, QuantizedTensor] = {}

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def tensor(self, name: str) -> Tensor:
        codes = self._codes.get(name)
        array: npt.NDArray[Any] = self._state[name].numpy()
        return array if codes is None else codes

    def quantize(self) -> None:
        """Round every matrix of the layers to 4-bit codes with float minimums, and the model to what they stand for."""
        torch = pytest.importorskip("torch")

        for name, tensor in self._model.state_dict().items():
            if tensor.dim() == 2 and ".layers." in name:
                self._codes[name] = quantize(tensor.numpy(), 4, 16, "minimums")
                tensor.copy_(torch.from_numpy(self._codes[name].dequantize()))

    def logits(self, tokens: Sequence[int]) -> Logits:
        """float32 [n, vocab], as transformers computes them."""
        torch = pytest.importorskip("torch")

        with torch.inference_mode():
            found: Logits = self._model(torch.tensor([list(tokens)])).logits[0].numpy()
        return found

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The ``count`` likeliest tokens that follow. Without a cache: what a longer sequence is rotated by, its beginning is too."""
        torch = pytest.importorskip("torch")

        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([list(tokens)]), max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=False
            )
        return [int(token) for token in out[0, len(tokens) :]]


def relative_difference(got: Logits, want: Logits) -> float:
    """The norm of the difference, relative to that of ``want``."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def all_logits(engine: Engine, slot: int, tokens: Sequence[int], position: int = 0) -> Logits:
    """The logits of all tokens of one row, in an array of their own."""
    return np.array(engine.step([Row(slot, list(tokens), position, "all")])[0])


def compare_with_family_model(engine: Engine, model: FamilyModel, tolerance: float) -> None:
    """Compare an engine of at least three slots, over ``model`` in float32, with transformers.

    Logits over the whole context in one piece, in chunks and in a batch, after a truncation and in a fork, and 24 greedy tokens.

    Args:
        tolerance: what ``relative_difference`` of logits may be.
    """
    tokens = FAMILY_TOKENS
    assert engine.info.context_length == FAMILY_CONTEXT
    rope = model.decoder.layer(0).rope
    switch = None if rope is None else rope.switch
    want = model.logits(tokens)
    one, pieces, other = engine.open(), engine.open(), engine.open()
    assert relative_difference(all_logits(engine, one, tokens), want) < tolerance
    found = [all_logits(engine, pieces, tokens[:7]), all_logits(engine, pieces, tokens[7:8], 7)]
    both = engine.step([Row(pieces, tokens[8:70], 8, "all"), Row(other, tokens[5:25], 0, "all")])
    together = [np.array(each) for each in both]
    found += [together[0], all_logits(engine, pieces, tokens[70:], 70)]
    beginning = 0 if switch is None else 70  # pieces of a text that is still short are rotated as such
    assert relative_difference(np.concatenate(found)[beginning:], want[beginning:]) < tolerance
    assert relative_difference(together[1], model.logits(tokens[5:25])) < tolerance
    engine.truncate(one, 20)
    engine.close(other)
    fork = engine.fork(one)
    assert relative_difference(all_logits(engine, fork, tokens[20:24], 20), model.logits(tokens[:24])[20:]) < tolerance
    expected = model.greedy(tokens[:20], 24)
    produced: list[int] = []
    feed = tokens[19:20]
    engine.truncate(one, 19)
    for position in range(19, 43):
        logits = np.array(engine.step([Row(one, feed, position)])[0][-1])
        logits[FAMILY_SIZES["eos_token_id"]] = -np.inf  # it is not chosen before 24 others were
        feed = [int(logits.argmax())]
        produced += feed
    assert produced == expected
