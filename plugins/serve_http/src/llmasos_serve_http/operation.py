"""What the OpenAPI document says of a route beside its path, its permission and its errors."""

from __future__ import annotations

import attrs

from llmasos_serve_http.schemas import Schema


@attrs.frozen(kw_only=True)
class Operation:
    """What a route takes and gives, as JSON Schemas.

    Attributes:
        body: of the request; None: it takes none.
        body_type: its media type.
        answer: the body of an answer that succeeded.
        events: the data of each event, where the answer may be a stream of server-sent events.
        lines: each line, where the answer may be lines of JSON.
        media_type: of an answer that is no JSON.
    """

    body: Schema | None = None
    body_type: str = "application/json"
    answer: Schema = attrs.field(factory=lambda: {"type": "object"})
    events: Schema | None = None
    lines: Schema | None = None
    media_type: str = "application/json"
