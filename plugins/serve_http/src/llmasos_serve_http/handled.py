"""What is known of a request once it has been answered: for the access log and for traces. It holds no prompt, no answer and no secret."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.define
class Facts:
    """What the handlers of a request find out about it.

    Attributes:
        principal, tenant: who asked; empty where nobody was recognised.
        model: that answered.
        prompt_tokens, cached_tokens, generated_tokens: counts; None where nothing was generated.
        finishes: why each answer ended.
        first: seconds until the first piece of the answer.
        code: of the error, where it failed.
    """

    principal: str = ""
    tenant: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    finishes: tuple[str, ...] = ()
    first: float | None = None
    code: str = ""


@attrs.frozen(kw_only=True)
class Handled:
    """One request that is over.

    Attributes:
        id: what client and log call it.
        began: nanoseconds since the epoch.
        seconds: until it was over.
        method, route: of the request; the route as it is declared, and empty where there is none, because addresses may hold anything.
        status: of the answer; 0 where the client left before it had one.
        client: address.
        headers: that carry the context of a trace.
        facts: what its handlers found out.
    """

    id: str
    began: int
    seconds: float
    method: str
    route: str
    status: int
    client: str
    headers: Mapping[str, str]
    facts: Facts
