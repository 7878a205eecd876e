"""Options of the server."""

from __future__ import annotations

import attrs

_AT_LEAST_1 = attrs.validators.ge(1)
_ABOVE_0 = attrs.validators.gt(0.0)


@attrs.frozen(kw_only=True)
class Options:
    """The ``[[server]]`` table with ``use = "http"``."""

    host: str = attrs.field(
        default="127.0.0.1", metadata={"help": "Address to listen on; beyond the loopback interface it needs [access]."}
    )
    port: int = attrs.field(
        default=8000, validator=[attrs.validators.ge(0), attrs.validators.le(65535)], metadata={"help": "0: any free one."}
    )
    allowed_hosts: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "Names by which clients may reach the server, beside those of this machine's loopback interface."}
    )
    allowed_origins: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": 'Web pages that may use the server, such as "https://chat.example"; "*": all.'}
    )
    max_body: int = attrs.field(default=8 << 20, validator=_AT_LEAST_1, metadata={"help": "Most bytes of a request's body."})
    max_headers: int = attrs.field(default=32 << 10, validator=_AT_LEAST_1, metadata={"help": "Most bytes of a request's headers."})
    header_timeout: float = attrs.field(
        default=10.0, validator=_ABOVE_0, metadata={"help": "Seconds in which a request's headers must arrive."}
    )
    body_timeout: float = attrs.field(default=30.0, validator=_ABOVE_0, metadata={"help": "Seconds in which a request's body must arrive."})
    stream_every: float = attrs.field(
        default=0.1,
        validator=[attrs.validators.ge(0.0), attrs.validators.le(1.0)],
        metadata={
            "help": "Seconds between two parts of a stream at least, after its first two: tokens that come sooner are sent together, as "
            "one event; 0: each token as it comes."
        },
    )
    comment_every: float = attrs.field(
        default=10.0,
        validator=_ABOVE_0,
        metadata={"help": "Seconds without text after which a stream gets a comment, so that proxies keep it."},
    )
    stalled_after: float = attrs.field(
        default=30.0,
        validator=_ABOVE_0,
        metadata={"help": "Seconds without a step of a model that has something to compute, after which /readyz answers 503."},
    )
    tls_certificate: str = attrs.field(default="", metadata={"help": "File of the certificate and its chain (PEM), for https."})
    tls_key: str = attrs.field(default="", metadata={"help": "File of the certificate's private key (PEM)."})
    mcp: bool = attrs.field(default=False, metadata={"help": "Offer the tasks as tools of the Model Context Protocol, at /mcp."})
    assistant: str = attrs.field(
        default="",
        metadata={
            "help": "Task that answers /v1/responses of clients which bring no tools, with those that config gives it: assist; empty: none."
        },
    )
    console: bool = attrs.field(default=True, metadata={"help": "Serve the page at /: chat, tasks and operation in a browser."})
    conversations: bool = attrs.field(
        default=True,
        metadata={"help": "Keep what is said on the page: with the conversations of llmasos chat, or apart for the owner of each key."},
    )
    access_log: str = attrs.field(
        default="", metadata={"help": 'File to which each request is logged as a line of JSON; "-": standard error; empty: none.'}
    )
    traces: bool = attrs.field(default=False, metadata={"help": "Make a span of OpenTelemetry of each request."})
    temperature: float = attrs.field(
        default=1.0,
        validator=attrs.validators.ge(0.0),
        metadata={"help": "Of requests that name none; OpenAI's default is 1, and 0 is greedy."},
    )
