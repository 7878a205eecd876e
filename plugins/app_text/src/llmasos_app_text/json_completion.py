"""Completes a truncated JSON text so that it satisfies its schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError

# In the order in which they end a value soonest; inside a string everything except the quotation mark is content.
_OUTSIDE = {byte: rank for rank, byte in enumerate(b'}],:"n0tf{[-')}


def compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with llguidance's setting that forbids white space between JSON tokens."""
    return {**schema, "x-guidance": {"whitespace_flexible": False}}


def complete_json(text: str, schema: Mapping[str, Any], *, limit: int = 4096) -> str:
    """Complete ``text``, a prefix of a JSON value of ``schema``, with as few characters as possible.

    Anything after the longest prefix that the schema allows is dropped. At most ``limit`` bytes are added; raises ``RequestError`` if that
    is not enough or the schema cannot be used.
    """
    import llguidance
    import numpy as np

    grammar = llguidance.LLMatcher.grammar_from_json_schema(compact(schema))
    problem = llguidance.LLMatcher.validate_grammar(grammar)
    if problem:
        raise RequestError(f"The schema cannot be used: {' '.join(problem.split())}")
    vocabulary = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(vocabulary, grammar)
    given = list(text.encode())
    written = bytearray(given[: matcher.validate_tokens(given)])
    matcher.consume_tokens(list(written))
    start = len(written)
    while not (matcher.is_stopped() or matcher.is_accepting()):
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")[:256])
        if not len(allowed) or len(written) - start >= limit:
            raise RequestError("The answer was cut before its JSON was complete; raise max_new_tokens, or bound the schema's strings.")
        chosen = _quickest_end(allowed.tolist(), _inside_string(written))
        matcher.consume_token(chosen)
        written.append(chosen)
    return written.decode()


def parse_json(text: str) -> Any:
    """The value of a JSON text; a number too large for a float becomes the largest one, so that it can be written again."""
    largest = sys.float_info.max
    return json.loads(text, parse_float=lambda digits: max(-largest, min(largest, float(digits))))


def _quickest_end(allowed: list[int], inside: bool) -> int:
    if inside:
        return ord('"') if ord('"') in allowed else min(allowed)
    return min(allowed, key=lambda byte: (_OUTSIDE.get(byte, len(_OUTSIDE)), byte))


def _inside_string(written: bytearray) -> bool:
    inside = escaped = False
    for byte in written:
        if escaped:
            escaped = False
        elif inside and byte == ord("\\"):
            escaped = True
        elif byte == ord('"'):
            inside = not inside
    return inside
