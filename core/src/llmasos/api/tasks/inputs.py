"""A row as the typed inputs of a task."""

from __future__ import annotations

import json
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmasos.api.tasks.rows import InputRow
from llmasos.system.options import fields_of, find_problems, structure_options
from llmasos.system.options.words import unwrapped
from llmasos_hookspecs import RequestError


def make_inputs(cls: type, row: InputRow, *, common: Mapping[str, Any] | None = None, ignore: Collection[str] = ()) -> Any:
    """The inputs that a row and the values ``common`` to all rows describe; the row's own win. Keys in ``ignore`` are left out.

    Texts of a CSV row are read as the field's type wants them: an empty one is left out where the field has a default, a number, list
    or table is read as JSON, a text that is no JSON is a list of one text where the field is a list.

    Raises ``RequestError`` with one sentence for each problem.
    """
    own = {key: value for key, value in row.values.items() if key not in ignore}
    if row.text:
        kinds = {field.key: field for field in fields_of(cls)}
        own = {
            key: from_text(value, kinds[key].type) if key in kinds else value
            for key, value in own.items()
            if value or key not in kinds or kinds[key].required
        }
    values = {**(common or {}), **own}
    problems = find_problems(cls, values)
    if problems:
        raise RequestError(f"{row.location}: {' '.join(str(problem) for problem in problems)}")
    return structure_options(cls, values)


def from_text(text: str, kind: Any) -> Any:
    """A text as the field's type wants it: text stays text, all else is read as JSON where it is JSON; a text that is no JSON is a list
    of one text where the field is a list."""
    kind = unwrapped(kind)
    if kind is str or (str in typing.get_args(kind) and not _is_list(kind)):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return [text] if _is_list(kind) else text


def _is_list(kind: Any) -> bool:
    base = typing.get_origin(kind) or kind
    return isinstance(base, type) and issubclass(base, Sequence) and base is not str
