"""On every backend, every task gives an answer of the promised form for random inputs and random weights."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_app_code import code, code_translate, complete, explain
from llmasos_app_education import grade, tutor
from llmasos_app_text import answer, chat, classify, extract, generate, sentiment, summarize, translate
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.task_inputs import assert_valid_output, names, texts
from llmasos_options import json_schema, unstructure

tokens = st.integers(1, 24)
languages = st.sampled_from(("python", "go", "json"))
schemas = st.sampled_from(
    (
        {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]},
        {"type": "array", "items": {"type": "number"}, "minItems": 2},
        {"enum": ["red", "green", 3, None]},
    )
)
rubrics = st.lists(st.builds(grade.Criterion, name=names(), points=st.integers(1, 9)), min_size=1, max_size=3, unique_by=lambda c: c.name)

INPUTS: dict[str, Any] = {
    "generate": st.builds(generate.Inputs, prompt=texts(), chat=st.booleans(), max_new_tokens=tokens),
    "chat": st.builds(chat.Inputs, message=texts(), system=names(), max_new_tokens=tokens),
    "translate": st.builds(translate.Inputs, text=texts().map(lambda text: text[:1200]), target=names()),
    "answer": st.builds(answer.Inputs, question=texts(), documents=st.lists(texts(), max_size=3).map(tuple), max_new_tokens=tokens),
    "summarize": st.builds(summarize.Inputs, text=texts(), max_new_tokens=tokens),
    "sentiment": st.builds(sentiment.Inputs, text=texts()),
    "classify": st.builds(classify.Inputs, text=texts(), labels=st.lists(names(), min_size=2, max_size=4, unique_by=str.strip).map(tuple)),
    "extract": st.builds(extract.Inputs, text=texts(), schema=schemas, max_new_tokens=tokens),
    "code": st.builds(code.Inputs, instruction=texts(), language=languages, check=st.booleans(), max_new_tokens=tokens),
    "complete": st.builds(complete.Inputs, prefix=texts(), suffix=texts() | st.just(""), max_new_tokens=tokens),
    "code_translate": st.builds(code_translate.Inputs, code=texts(), target=languages, max_new_tokens=tokens),
    "explain": st.builds(explain.Inputs, code=texts(), max_new_tokens=tokens),
    "grade": st.builds(grade.Inputs, submission=texts(), rubric=rubrics.map(tuple), reason_tokens=tokens),
    "tutor": st.builds(tutor.Inputs, message=texts(), topic=names(), max_new_tokens=tokens),
}


#: Tasks that are asked of every backend on each change: plain text, choice by score, and a grammar over its logits.
FEW = ("generate", "classify", "extract")
PAIRS = [
    pytest.param(backend, name, marks=() if backend == "onnx" or name in FEW else pytest.mark.long)
    for backend in ("onnx", "torch")
    for name in INPUTS
]


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    pytest.importorskip(f"llmasos_backend_{request.param}")
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_checkpoint(
        folder=folder, max_position_embeddings=1024, num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2
    )
    dtype: dict[str, Any] = {"precision": "fp32"} if request.param == "onnx" else {"dtype": "float32"}
    with llmasos.load_model(folder, loader={"use": request.param, **dtype}) as loaded:
        yield loaded


def _validated(model: LanguageModel, name: str, inputs: Any) -> None:
    task = model.pipeline.task(name)
    output = task.run(model, inputs)
    assert_valid_output(task, output)
    jsonschema.validate(unstructure(output), json_schema(task.output))
    if name == "extract":
        jsonschema.validate(output.data, inputs.schema)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), PAIRS, indirect=["model"])
def test_answers_have_the_promised_form(model: LanguageModel, name: str) -> None:
    """A draw of 3 inputs (`make test-long`: 20 draws of 12), each served together, as many requests at once are."""
    together = 12 if settings.default.max_examples >= 500 else 3

    @settings(
        max_examples=20 if settings.default.max_examples >= 500 else 1,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(INPUTS[name], min_size=together, max_size=together))
    def check(inputs: list[Any]) -> None:
        with ThreadPoolExecutor(together) as pool:
            list(pool.map(lambda each: _validated(model, name, each), inputs))

    check()
