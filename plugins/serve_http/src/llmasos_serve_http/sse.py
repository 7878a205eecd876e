"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from typing import Any, Final

import orjson

MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
COMMENT: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    """One event; JSON of orjson has no line ends."""
    return b"data: %b\n\n" % orjson.dumps(data)
