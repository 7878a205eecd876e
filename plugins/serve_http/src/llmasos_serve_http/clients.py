"""Who a client is: what it shows in its headers, as credentials."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers

from llmasos_hookspecs import Credentials, NotAuthenticated


def credentials_of(headers: Headers, client: Any) -> Credentials:
    """The key in ``Authorization: Bearer`` or ``x-api-key``; one in the address is not looked for, because addresses are logged.

    Raises:
        NotAuthenticated: it shows several, or ``Authorization`` names no scheme.
    """
    address = client[0] if client else ""
    shown = [*headers.getlist("authorization"), *(f"Bearer {key}" for key in headers.getlist("x-api-key"))]
    if not shown:
        return Credentials(client=address)
    if len(set(shown)) > 1:
        raise NotAuthenticated("The request shows different keys; send one, as Authorization: Bearer KEY or as x-api-key.")
    scheme, _, secret = shown[0].strip().partition(" ")
    if not secret.strip():
        raise NotAuthenticated("The Authorization header is not understood; send Authorization: Bearer KEY.")
    return Credentials(scheme=scheme.lower(), secret=secret.strip(), client=address)
