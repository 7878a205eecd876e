"""What a client is told of an error: an HTTP status, and what error bodies of any protocol hold."""

from __future__ import annotations

import math
from typing import Final

import attrs

from llmasos_hookspecs import (
    Blocked,
    ContextLengthExceeded,
    LLMasOSError,
    ModelClosed,
    NotAllowed,
    NotAuthenticated,
    QuotaExceeded,
    Rejected,
    RequestError,
    ResourceError,
    UnknownModel,
    UnsupportedModel,
)
from llmasos_serve_http.limit_headers import limit_headers


@attrs.frozen(kw_only=True)
class Failure:
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        type: group of errors, by OpenAI's words.
        code: the error, by OpenAI's words.
        message: one sentence.
        param: field of the request that is meant; empty where it is none.
        retry_after: seconds after which the request may succeed; None: no promise.
        headers: further headers of the answer.
    """

    status: int
    type: str
    code: str
    message: str
    param: str = ""
    retry_after: float | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def all_headers(self) -> list[tuple[str, str]]:
        """Headers of the answer."""
        waits = [] if self.retry_after is None else [("retry-after", str(max(1, math.ceil(self.retry_after))))]
        return [*waits, *self.headers]


class Refused(Exception):
    """Ends the handling of a request; the client is told ``failure``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


#: Error -> status, type and code; the first that fits.
_KINDS: Final[tuple[tuple[type[LLMasOSError], int, str, str], ...]] = (
    (NotAuthenticated, 401, "invalid_request_error", "invalid_api_key"),
    (NotAllowed, 403, "permission_error", "permission_denied"),
    (UnknownModel, 404, "invalid_request_error", "model_not_found"),
    (ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded"),
    (RequestError, 400, "invalid_request_error", "invalid_value"),
    (QuotaExceeded, 429, "insufficient_quota", "insufficient_quota"),
    (Rejected, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Blocked, 400, "invalid_request_error", "content_filter"),
    (UnsupportedModel, 501, "invalid_request_error", "unsupported_model"),
    (ResourceError, 503, "server_error", "out_of_memory"),
    (ModelClosed, 503, "server_error", "model_closed"),
)

STOPPED: Final = Failure(
    status=503, type="server_error", code="server_stopped", message="The server is being stopped; send the request again.", retry_after=5.0
)


def failure_of(error: LLMasOSError | Refused) -> Failure:
    """What a client is told of ``error``."""
    if isinstance(error, Refused):
        return error.failure
    status, kind, code = next((found[1:] for found in _KINDS if isinstance(error, found[0])), (500, "server_error", "server_error"))
    retry_after = None
    if isinstance(error, Rejected):
        retry_after = error.retry_after
        if retry_after is None and not isinstance(error, QuotaExceeded):  # trying again cannot help
            status, kind, code = 400, "invalid_request_error", "request_too_large"
    param = "model" if isinstance(error, UnknownModel) else error.param if isinstance(error, RequestError) else ""
    headers: tuple[tuple[str, str], ...] = (("www-authenticate", "Bearer"),) if status == 401 else ()
    if isinstance(error, QuotaExceeded) and error.left is not None:
        headers = tuple(limit_headers(error.left))
    return Failure(status=status, type=kind, code=code, message=str(error), param=param, retry_after=retry_after, headers=headers)


def refused(status: int, message: str, code: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Refused:
    """To be raised where a request is refused for its form."""
    return Refused(Failure(status=status, type="invalid_request_error", code=code, message=message, headers=headers))
