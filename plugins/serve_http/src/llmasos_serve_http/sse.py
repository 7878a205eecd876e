"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), and JSON that is one line for every reader."""

from __future__ import annotations

from typing import Any, Final

import orjson

MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
COMMENT: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"

#: Line ends of Unicode, which JSON allows within strings: clients that read lines of text (Python's ``str.splitlines``) would cut there.
_LINE_ENDS: Final = tuple((end.encode(), rb"\u%04x" % ord(end)) for end in "\x85\u2028\u2029")


def event(data: Any, kind: str = "") -> bytes:
    """One event, with its kind where it has one."""
    name = b"event: %b\n" % kind.encode() if kind else b""
    return b"%bdata: %b\n\n" % (name, one_line(data))


def one_line(data: Any) -> bytes:
    """JSON without the end of any kind of line."""
    found = orjson.dumps(data)
    if not found.isascii():
        for end, escaped in _LINE_ENDS:
            found = found.replace(end, escaped)
    return found
