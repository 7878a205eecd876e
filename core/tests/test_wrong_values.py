"""What is not meant is refused in one sentence, and never taken for something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmasos
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder)
    with llmasos.load_model(folder, loader="onnx", threads=1) as found:
        yield found


HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"logit_bias": {5: "x"}}, "logit_bias adds 'x' to token 5, and it must be a number."),
        ({"logit_bias": {"five": 1}}, "logit_bias has the key 'five', and a key must be a token id."),
        ({"logit_bias": [5]}, "logit_bias is a list, and it must map token ids to numbers."),
        ({"logit_bias": {5: float("nan")}}, "logit_bias adds nan to token 5, and it must be a number."),
        ({"stop": 5}, "stop is 5, and it must be a string or a list of strings."),
        ({"stop": [5]}, "stop holds 5, and every stop must be a non-empty string."),
        ({"deadline": float("nan")}, "deadline is nan, and it must be a number of seconds above 0."),
        ({"weight": float("inf")}, "weight is inf, and it must be a number above 0."),
        ({"tenant": 5}, "tenant is 5, and it must be a name."),
        ({"temperature": float("nan")}, "temperature is nan, and it must be a number of at least 0."),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5, and it must be a whole number of at least 1."),
    ],
    ids=str,
)
def test_an_option_of_the_wrong_kind_is_one_sentence(model: Any, options: dict[str, Any], sentence: str) -> None:
    """The option, what it is, and what it must be."""
    with pytest.raises(RequestError) as caught:
        model.generate_text("Hello", **options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model: model.chat("hi"), "chat takes a list of messages, and it was given one str"),
        (lambda model: model.stream_chat(HELLO[0]), "chat takes a list of messages, and it was given one dict"),
        (lambda model: model.batch("ab"), "batch takes a list of prompts, and it was given one str"),
        (lambda model: model.choose("Is it red?", "yes"), "choices is 'yes', and it must be a list of texts."),
        (lambda model: model.score("Is it red?", "yes"), "continuations is 'yes', and it must be a list of texts."),
        (lambda model: model.logits("abc"), "The tokens are a str, and they must be a list of token ids."),
        (lambda model: model.logits([1.5]), "The tokens hold 1.5, and a token id is a whole number."),
        (lambda model: model.logits([True]), "The tokens hold True, and a token id is a whole number."),
        (lambda model: model.logits(7), "The tokens are a int, and they must be a list of token ids."),
    ],
)
def test_one_where_several_are_meant_is_refused(model: Any, call: Callable[[Any], Any], sentence: str) -> None:
    """A text is not taken letter by letter, nor a number rounded."""
    with pytest.raises(RequestError) as caught:
        call(model)
    assert str(caught.value).startswith(sentence)


def test_numbers_of_numpy_and_keys_of_json_are_taken(model: Any) -> None:
    """They are what the plain numbers are."""
    token = model.generate("Hello", max_new_tokens=1).tokens[0]
    plain = model.generate("Hello", max_new_tokens=4, temperature=0.5, top_k=5, seed=1, logit_bias={token: -100.0})
    numpy = {"max_new_tokens": np.int64(4), "temperature": np.float32(0.5), "top_k": np.int32(5), "seed": np.uint8(1)}
    assert model.generate("Hello", **numpy, logit_bias={str(token): np.float64(-100)}).tokens == plain.tokens
    assert token not in plain.tokens
    assert np.array_equal(model.logits(np.array([1, 2, 3])), model.logits([1, 2, 3]))
