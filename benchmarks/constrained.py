"""Schema-constrained generations at temperature 1: whatever the limit did not cut parses and validates, and what it cut says so.

    python benchmarks/constrained.py                     # 1,000 generations over 20 schemas on SmolLM2
    python benchmarks/constrained.py --generations 40    # quick

The cost a token is the same prompts' time a token with and without the constraint, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jsonschema

import llmasos
from llmasos.api.model import LanguageModel


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_WORD = {"type": "string", "maxLength": 16}
_POINT = _object(x={"type": "number"}, y={"type": "number"})

_DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
_TREE = _object(value=_DIGIT, next={"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]})

#: What a schema can ask for, each kind at least once.
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer in a range": {"type": "integer", "minimum": -5, "maximum": 120},
    "number": {"type": "number"},
    "string": {"type": "string", "maxLength": 24},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "enum": {"enum": ["red", "green", "天", 7, None]},
    "const": {"const": {"kind": "fixed"}},
    "date": {"type": "string", "format": "date"},
    "array of words": {"type": "array", "items": _WORD, "minItems": 1, "maxItems": 4},
    "array of a length": {"type": "array", "items": _DIGIT, "minItems": 3, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [_WORD, {"type": "boolean"}], "items": False, "minItems": 2},
    "person": _object(name=_WORD, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "optional": {"type": "object", "properties": {"a": _WORD, "b": {"type": "null"}}, "required": ["a"], "additionalProperties": False},
    "nested": _object(title=_WORD, place=_POINT),
    "array of objects": {"type": "array", "items": _POINT, "minItems": 1, "maxItems": 2},
    "any of": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, _WORD, {"type": "null"}]},
    "definitions": {"$defs": {"word": _WORD}, **_object(first={"$ref": "#/$defs/word"}, last={"$ref": "#/$defs/word"})},
    "recursive": {"$defs": {"tree": _TREE}, "$ref": "#/$defs/tree"},
    "map": {"type": "object", "additionalProperties": _DIGIT, "maxProperties": 3},
    "classification": _object(
        label={"enum": ["positive", "negative", "neutral"]}, confidence={"type": "number", "minimum": 0, "maximum": 1}
    ),
}


def prove(model: LanguageModel, generations: int, max_new_tokens: int = 120, batch: int = 25) -> dict[str, Any]:
    """Generate over all schemas in turn; ``violations`` holds every text that broke its schema without saying that it was cut."""
    reasons: Counter[str] = Counter()
    violations: list[dict[str, str]] = []
    names = list(SCHEMAS)
    for place, name in enumerate(names):
        count = generations // len(names) + (place < generations % len(names))
        validator = jsonschema.Draft202012Validator(SCHEMAS[name])
        for start in range(0, count, batch):
            prompts = [f"Example {number} of a JSON value, {name}: " for number in range(start, min(count, start + batch))]
            how: dict[str, Any] = {"schema": SCHEMAS[name], "temperature": 1.0, "max_new_tokens": max_new_tokens}
            for found in model.batch(prompts, seed=place * 1000 + start, **how):
                reasons[found.finish_reason] += 1
                if found.finish_reason == "length":
                    continue
                try:
                    validator.validate(json.loads(found.text))
                except (ValueError, jsonschema.ValidationError) as error:
                    violations.append({"schema": name, "text": found.text, "error": str(error).partition("\n")[0]})
    return {"generations": reasons.total(), "finish_reasons": dict(reasons), "violations": violations}


def cost(model: LanguageModel, rounds: int = 9, tokens: int = 96) -> float:
    """What the constraint adds to the time of a token, as a fraction: medians of rounds in turn, the same tokens each time."""
    constraint = {"type": "array", "items": {"type": "string"}}
    text = "A long JSON list of English words: "
    kinds: dict[str, dict[str, Any]] = {"plain": {"ignore_eos": True}, "constrained": {"schema": constraint, "ignore_eos": True}}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name, options in kinds.items():
            began = time.perf_counter()
            found = model.generate(text, max_new_tokens=tokens, **options)
            if turn:  # the first compiles the grammar and warms up
                seconds[name].append((time.perf_counter() - began) / len(found.tokens))
    return statistics.median(seconds["constrained"]) / statistics.median(seconds["plain"]) - 1


def main() -> int:
    """Print the figures as JSON; 1 where a text broke its schema."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=1000)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--loader", default="onnx")
    arguments = parser.parse_args()
    with llmasos.load_model(arguments.model, loader=arguments.loader, scheduler={"use": "fifo", "max_sequences": 16}) as model:
        found = prove(model, arguments.generations)
        found["cost_a_token"] = cost(model)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
