"""What a task tells on its way to its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class TaskCall:
    """Something about a call of a tool that a task makes.

    Attributes:
        kind: ``called``: it begins; ``answered``: it has a result; ``failed``: it has none, or was refused, perhaps before it began;
            ``asked``: it is not run before somebody has confirmed it, and the task's output comes without it.
        id: of the call, the same in all its events.
        tool, arguments: what is called, as plain data.
        text: the result, or why there is none.
    """

    kind: Literal["called", "answered", "failed", "asked"]
    id: str
    tool: str
    arguments: Mapping[str, Any]
    text: str = ""


@attrs.frozen
class TaskOutput:
    """The end: an instance of the task's ``output``; of a runtime, the same as plain data."""

    output: Any


#: A piece of text, to be shown at once; a call; or the output, which is the last.
TaskEvent = str | TaskCall | TaskOutput
