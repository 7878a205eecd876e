"""Code in Markdown fences: the constraint for a fenced block, and extraction of code from a reply."""

from __future__ import annotations

import re

# An opening fence with its language, and what follows up to the closing fence or the end.
_FENCE = re.compile(
    r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*(?P=mark)[`~]*[ \t]*$|\Z)", re.M | re.S
)


def fenced_form(language: str) -> str:
    """A regular expression for one fenced block of code in ``language`` and nothing else.

    Code may hold one or two backticks in a row, but not three.
    """
    return rf"```{re.escape(language)}\n(?:[^`]|`[^`]|``[^`])*\n```"


def code_in(reply: str) -> str:
    """The code in a reply: its longest fenced block, closed or cut short; without any fence, the whole reply."""
    blocks = [match["code"] for match in _FENCE.finditer(reply)]
    code = max(blocks, key=len) if blocks else reply
    return code.strip("\n").rstrip()


def fenced(code: str, language: str) -> str:
    """``code`` in a fence that is longer than any row of backticks in it."""
    longest = max((len(row) for row in re.findall(r"`+", code)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{code}\n{mark}"
