"""The real model assigns a higher likelihood to text in its own tokenisation than in GPT-2's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmasos.api.model import LanguageModel
from llmasos.compose.formats import open_model
from llmasos_format_gguf.header import read_header

pytestmark = pytest.mark.model

LIST = "Here are the steps to make tea:\n\n" + "\n\n".join(
    f"{number}. {step}"
    for number, step in enumerate(
        ["Boil some water.", "Put a tea bag into a cup.", "Pour the water into the cup.", "Wait for three minutes.", "Add milk or sugar."],
        1,
    )
)
TABLE = "Month    Rain    Days\nJan      55      12\nFeb      41      10\nMar      38      11\nApr      45       9\n"
COUNTED = "| n    | square |\n|------|--------|\n" + "".join(f"| {number:<4} | {number**2:>6} |\n" for number in range(1, 9))
PROSE = "The river rose in the night, and by the morning the lower meadow was under water. Nobody in the village had seen it so high."


def nats(model: LanguageModel, tokens: list[int]) -> float:
    """Minus the log-likelihood of all tokens but the first."""
    logits = model.logits(tokens)[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(tokens) - 1), tokens[1:]]).sum())


@pytest.fixture(scope="module")
def as_gpt2(smollm2_gguf: Path) -> Tokenizer:
    """The same vocabulary, cut as GPT-2 cuts text: digits stay with each other and with the spaces before them."""
    metadata = read_header(smollm2_gguf).metadata
    tokens, merges = (metadata[f"tokenizer.ggml.{name}"].decoded() for name in ("tokens", "merges"))
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return backend


@pytest.mark.long  # on each change the tests of tokenizing hold the tokens to those of the published tokenizer
@pytest.mark.parametrize(
    ("name", "text"),
    [("list", LIST), ("table", TABLE), ("counted table", COUNTED)],
)
def test_lists_and_tables_cost_the_model_less_in_the_tokens_that_it_was_trained_on(
    name: str, text: str, smollm2: LanguageModel, as_gpt2: Tokenizer
) -> None:
    right, other = smollm2.tokenizer.encode(text), as_gpt2.encode(text).ids
    assert right != other
    assert smollm2.tokenizer.decode(right) == as_gpt2.decode(other) == text
    mine, theirs = nats(smollm2, right), nats(smollm2, other)
    print(f"{name}: {mine:.1f} nats, and {theirs:.1f} cut as GPT-2 does")
    assert mine < 0.95 * theirs


def test_prose_without_digits_has_the_same_tokens_either_way(smollm2_gguf: Path, as_gpt2: Tokenizer) -> None:
    assert open_model(smollm2_gguf).tokenizer().encode(PROSE) == as_gpt2.encode(PROSE).ids
