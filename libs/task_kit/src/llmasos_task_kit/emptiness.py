"""The one rule for empty inputs: a task without anything to work on is refused, before the model is asked."""

from __future__ import annotations

from typing import Any

import attrs

from llmasos_hookspecs import RequestError


def refuse_empty(inputs: Any, *names: str) -> None:
    """Refuse ``inputs`` of a task if the texts of all the fields ``names`` are empty or white space.

    A model answers an empty text with something that reads like an answer about it: points for a submission that nobody wrote, a summary of
    nothing. Several names are for a task that can work on any one of them. The sentence says what the first is for, by its ``help``.
    """
    if any(getattr(inputs, name).strip() for name in names):
        return
    purpose = attrs.fields_dict(type(inputs))[names[0]].metadata.get("help", "")
    empty = f"{names[0]} is empty" if len(names) == 1 else f"{', '.join(names)} are empty"
    raise RequestError(f"{empty}, so there is nothing to work on; give {names[0]} a text{f': {purpose}' if purpose else '.'}")
