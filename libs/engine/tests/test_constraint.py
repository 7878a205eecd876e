"""Text that must have a form."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from llmasos_engine.constraint import ConstraintCompiler
from llmasos_hookspecs import Constraint, EngineFailed, RequestError
from llmasos_hookspecs.testing import ByteTokenizer

SECONDS = 120.0

#: The vocabulary has the first byte of a character and not the others.
NO_HALF_CHARACTER = {95: -1000.0}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "integer", "minimum": 3, "maximum": 120},
    {"enum": ["red", "green", 7, None]},
    {"type": "string", "maxLength": 8},
    {"type": "string", "pattern": "^[a-c]{2,5}$"},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 4},
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            "b": {"anyOf": [{"type": "null"}, {"const": 5}]},
        },
        "required": ["b"],
        "additionalProperties": False,
    },
]


@pytest.mark.parametrize(
    ("schema", "lookup"),
    [
        *((schema, 0) for schema in SCHEMAS),
        *(pytest.param(schema, 6, marks=[pytest.mark.long] * (schema is not SCHEMAS[-1])) for schema in SCHEMAS),
    ],
    ids=str,
)
def test_json_parses_and_validates_unless_the_limit_cut_it(
    make_loop: Any, hash_engine: Any, request_of: Any, schema: dict[str, Any], lookup: int
) -> None:
    """At temperature 1 all texts that end by themselves are valid; the others say that the limit cut them."""
    jsonschema = pytest.importorskip("jsonschema")
    loop = make_loop(hash_engine(context_length=256))
    constraint = Constraint("json_schema", schema)
    options = {"temperature": 1.0, "logit_bias": NO_HALF_CHARACTER, "constraint": constraint, "prompt_lookup": lookup}
    tickets = [loop.submit(request_of([i, 7], 120, seed=i, **options)) for i in range(12)]
    ended = 0
    for ticket in tickets:
        generation = ticket.result(SECONDS)
        if generation.finish_reason == "length":
            assert len(generation.tokens) == 120
            continue
        ended += 1
        jsonschema.validate(json.loads(generation.text), schema)
    assert ended >= 6, "Nearly all were cut; the test proves little."


def test_drafts_change_nothing(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """What the grammar forces may be drafted; the text is the same, in fewer steps."""
    schema = {"type": "object", "properties": {"quantity": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["quantity"]}
    texts, steps = [], []
    for lookup in (0, 8):
        engine = hash_engine(context_length=256)
        ticket = make_loop(engine).submit(
            request_of([3, 7], 120, seed=1, temperature=1.0, constraint=Constraint("json_schema", schema), prompt_lookup=lookup)
        )
        texts.append(ticket.result(SECONDS).text)
        steps.append(len(engine.steps))
    assert texts[0] == texts[1]
    assert steps[1] < steps[0]


@pytest.mark.parametrize(
    ("constraint", "valid"),
    [
        (Constraint("regex", r"[0-9]{4}-(0[1-9]|1[0-2])"), lambda text: re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text)),
        (Constraint("choices", ["yes", "no", 'quite "so" \\ it\'s']), lambda text: text in ("yes", "no", 'quite "so" \\ it\'s')),
        (Constraint("grammar", 'start: "<" /[a-z]{1,4}/ ">" start?'), lambda text: re.fullmatch(r"(<[a-z]{1,4}>)+", text)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_other_forms(make_loop: Any, hash_engine: Any, request_of: Any, constraint: Constraint, valid: Any) -> None:
    """Regular expressions, choices and grammars hold, greedy and at temperature 1."""
    loop = make_loop(hash_engine(context_length=256))
    tickets = [loop.submit(request_of([i], 200, temperature=i % 2, seed=i, constraint=constraint)) for i in range(10)]
    answers = [ticket.result(SECONDS) for ticket in tickets]
    assert all(valid(answer.text) for answer in answers if answer.finish_reason == "stop")
    assert sum(answer.finish_reason == "stop" for answer in answers) >= 5


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Constraint("json_schema", {"type": "colour"}), "json schema cannot be used"),
        (Constraint("json_schema", "{not json"), "json schema cannot be used"),
        (Constraint("regex", "(unclosed"), "regex cannot be used"),
        (Constraint("regex", 5), "5 is not a string"),
        (Constraint("choices", []), "lists no choice"),
        (Constraint("choices", [1, 2]), "1 is not a string"),
        (Constraint("grammar", "start: nothing"), "grammar cannot be used"),
    ],
    ids=str,
)
def test_what_is_no_constraint_is_refused_at_once(
    make_loop: Any, hash_engine: Any, request_of: Any, constraint: Constraint, words: str
) -> None:
    """One sentence with the reason, before the request is queued."""
    with pytest.raises(RequestError, match=words) as caught:
        make_loop(hash_engine()).submit(request_of([1], 5, constraint=constraint))
    assert "\n" not in str(caught.value)


def test_a_text_that_cannot_be_completed_fails(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """Where the vocabulary has no token that goes on, the request fails rather than pass half a text for a whole one."""
    constraint = Constraint("json_schema", {"type": "string", "maxLength": 40})
    ticket = make_loop(hash_engine()).submit(request_of([1], 30, constraint=constraint, logit_bias={95: 1000.0}))
    with pytest.raises(EngineFailed, match="nothing that may be chosen"):
        ticket.result(SECONDS)


def test_the_mask_covers_a_padded_vocabulary(tokenizer: Any) -> None:
    """Logits wider than the tokenizer stay forbidden beyond it; the end is allowed once the text is whole."""
    state = ConstraintCompiler(tokenizer).compile(Constraint("choices", ["ab"]))
    mask = state.allowed(128)
    assert np.flatnonzero(mask).tolist() == [ord("a") - 32]
    state.accept(ord("a") - 32)
    assert not state.complete
    state.accept(ord("b") - 32)
    assert state.complete
    assert not state.allowed(128)[97:].any()


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a":1,"b":[true]}', True),
        ('{"a": 1, "b": [true]}', True),
        (json.dumps({"a": 1, "b": [True]}, indent=4), True),
        ('{"a":  1', False),
        ('{\n\n"a"', False),
        ("{\n" + 65 * " " + '"a"', False),
        (" {", False),
    ],
)
def test_white_space_of_json_has_a_bound(text: str, allowed: bool) -> None:
    """Between its tokens stand nothing, a space, or a new line with its indentation: a model cannot fill its answer with white space."""
    tokenizer = ByteTokenizer()
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "boolean"}}},
        "required": ["a", "b"],
    }
    state = ConstraintCompiler(tokenizer).compile(Constraint("json_schema", schema))
    for token in tokenizer.encode(text):
        if not state.allowed(tokenizer.vocab_size)[token]:
            assert not allowed
            return
        state.accept(token)
    assert allowed
