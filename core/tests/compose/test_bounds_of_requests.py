"""What no library should be handed is refused in one sentence first: sizes, depths, counts."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos.compose.prompts import PromptEncoder
from llmasos_config import load_config
from llmasos_engine.constraint import ConstraintCompiler
from llmasos_hookspecs import ConfigError, Constraint, RequestError
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer


def nested(levels: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", nested(300)),
        ("json_schema", nested(100_000)),
        ("json_schema", '{"items": ' * 1000 + "{}" + "}" * 1000),
        ("regex", "(" * 10_000 + "a" + ")" * 10_000),
        ("grammar", "start: " + "(" * 10_000 + '"a"' + ")" * 10_000),
    ],
)
def test_a_constraint_that_is_nested_too_deep_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(RequestError, match="is nested deeper than 200 levels; make it flatter"):
        ConstraintCompiler(ByteTokenizer()).compile(Constraint(kind, value))


@pytest.mark.parametrize(
    ("kind", "value"), [("regex", "a" * (1 << 21)), ("choices", ["b" * 1000] * 2000), ("json_schema", {"enum": ["c"] * (1 << 21)})]
)
def test_a_constraint_that_is_too_large_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(RequestError, match="more than 1048576 characters; make it smaller"):
        ConstraintCompiler(ByteTokenizer()).compile(Constraint(kind, value))


def test_a_deep_constraint_that_real_programs_write_passes() -> None:
    assert not ConstraintCompiler(ByteTokenizer()).compile(Constraint("json_schema", nested(20))).complete


@pytest.mark.parametrize("prompt", ["a" * 20_000_000, [{"role": "user", "content": "a" * 20_000_000}]])
def test_a_prompt_of_twenty_million_characters_is_refused_before_it_is_read(prompt: Any) -> None:
    with pytest.raises(RequestError, match=r"has 200000\d\d characters, and at most 16777216 are read; shorten it"):
        PromptEncoder(ByteTokenizer(), None).encode(prompt)


@pytest.mark.parametrize(
    "override",
    [
        "model.replicas=100000000",
        "model.context_length=1000000000000000000000",
        "resources.threads=1000000000",
        "seed=100000000000000000000000",
        "resources.keep_alive=nan",
        "resources.memory=nan",
        "resources.memory=1e300",
    ],
)
def test_impossible_values_of_a_config_are_refused_with_their_place(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        load_config(overrides=[override])
