"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), and JSON that is one line for every reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
COMMENT: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"

#: Stands for the text of an event that is written beforehand; what comes after the text is the server's own, and has no such text.
_TEXT: Final = "\0 the text \0"
#: Line ends of Unicode, which JSON allows within strings: clients that read lines of text (Python's ``str.splitlines``) would cut there.
_LINE_ENDS: Final = tuple((end.encode(), rb"\u%04x" % ord(end)) for end in "\x85\u2028\u2029")


def event(data: Any, kind: str = "") -> bytes:
    """One event, with its kind where it has one."""
    name = b"event: %b\n" % kind.encode() if kind else b""
    return b"%bdata: %b\n\n" % (name, one_line(data))


class TextEvents:
    """Events that are alike but for one text in each: all else is written once. A stream has one such event for each token."""

    def __init__(self, data: Callable[[str], Any], kind: str = "") -> None:
        """``data`` makes the data of the event of a text, which is its last text."""
        self._before, _, self._after = event(data(_TEXT), kind).rpartition(one_line(_TEXT))

    def of(self, text: str) -> bytes:
        """The event of a text."""
        data = orjson.dumps(text)
        return b"%b%b%b" % (self._before, data if data.isascii() else _escaped(data), self._after)


def one_line(data: Any) -> bytes:
    """JSON without the end of any kind of line."""
    found = orjson.dumps(data)
    return found if found.isascii() else _escaped(found)


def _escaped(data: bytes) -> bytes:
    for end, escaped in _LINE_ENDS:
        data = data.replace(end, escaped)
    return data
