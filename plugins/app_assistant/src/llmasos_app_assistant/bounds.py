"""What one turn may take."""

from __future__ import annotations

from typing import Any, Final

import attrs

_AT_LEAST_1: Final = attrs.validators.ge(1)
_ABOVE_0: Final = attrs.validators.gt(0.0)


def _bound(default: float, validator: Any, help: str) -> Any:  # noqa: A002 - the word of the metadata
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen(kw_only=True)
class Bounds:
    """Bounds of one turn, from a message to its answer."""

    steps: int = _bound(8, _AT_LEAST_1, "Times that the model may call tools; after that it has to answer with what it knows.")
    seconds: float = _bound(300.0, _ABOVE_0, "Seconds of a turn at most.")
    tokens: int = _bound(65536, _AT_LEAST_1, "Tokens that the model reads and writes in a turn at most, over all its steps.")
    call_seconds: float = _bound(60.0, _ABOVE_0, "Seconds of one call of a tool at most.")
    result_tokens: int = _bound(1024, _AT_LEAST_1, "Tokens of a tool's result that the model is shown at most.")
    parallel: int = _bound(4, _AT_LEAST_1, "Calls of one step that are run at once; with 1 a step has one call.")
