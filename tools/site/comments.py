"""Comments that begin with ``#:`` above a name, as its documentation: an extension of griffe, which reads docstrings only."""

from __future__ import annotations

from typing import Any

import griffe


class CommentedNames(griffe.Extension):
    """Gives each module-level name without a docstring the ``#:`` comment above it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring is not None or attr.lineno is None:
            return
        above: list[str] = []
        lines = attr.lines_collection[attr.filepath]
        number = attr.lineno - 2
        while number >= 0 and lines[number].lstrip().startswith("#:"):
            above.insert(0, lines[number].lstrip().removeprefix("#:").strip())
            number -= 1
        if above:
            attr.docstring = griffe.Docstring(" ".join(above), parent=attr)
