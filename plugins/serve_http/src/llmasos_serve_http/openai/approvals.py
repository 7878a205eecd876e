"""Ids of calls that wait to be approved. The server keeps no responses, so the id itself shows that the model asked for the call."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmasos_hookspecs import RequestError

#: Who was asked: tenant and name of a principal.
Owner = tuple[str, str]


class Approvals:
    """Makes and checks ids. What another process has made, an earlier one of this server too, is refused."""

    def __init__(self) -> None:
        self._key: Final = secrets.token_bytes(32)

    def id_of(self, owner: Owner, call: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """The id for a call of the model; ``call``: the call's own."""
        return f"mcpr_{call}.{self._mark(owner, call, tool, arguments)}"

    def call_of(self, owner: Owner, identity: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """The call's own id. Raises ``RequestError`` where the model has not asked this owner for this call."""
        call, _, mark = identity.removeprefix("mcpr_").rpartition(".")
        if not hmac.compare_digest(mark.encode(), self._mark(owner, call, tool, arguments).encode()):
            raise RequestError(
                f"The mcp_approval_request of {tool[:80]!r} is none that this server made for you, or was changed; ask again.",
                "input",
            )
        return call

    def _mark(self, owner: Owner, call: str, tool: str, arguments: Mapping[str, Any]) -> str:
        said = orjson.dumps([owner, call, tool, arguments], option=orjson.OPT_SORT_KEYS)
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()[:32]
