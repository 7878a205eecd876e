"""Ids of calls that wait to be approved. The server keeps no responses, so the id itself shows that the model asked for the call.

What is remembered is which ids were used: a call that was approved is run once at most.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmasos_hookspecs import RequestError

#: Ids that are remembered as used.
_MOST: Final = 100_000
#: Who was asked: tenant and name of a principal.
Owner = tuple[str, str]


class Approvals:
    """Makes and checks ids. What another process has made, an earlier one of this server too, is refused."""

    def __init__(self) -> None:
        self._key: Final = secrets.token_bytes(32)
        self._used: dict[str, None] = {}

    def id_of(self, owner: Owner, call: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """The id for a call of the model, another one each time; ``call``: the call's own id."""
        once = secrets.token_hex(4)
        return f"mcpr_{call}.{once}.{self._mark(owner, call, once, tool, arguments)}"

    def call_of(self, owner: Owner, identity: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """The call's own id. Raises ``RequestError`` where the model has not asked this owner for this call."""
        call, once, mark = ("", "", *identity.removeprefix("mcpr_").rsplit(".", 2))[-3:]
        if not hmac.compare_digest(mark.encode(), self._mark(owner, call, once, tool, arguments).encode()):
            raise RequestError(
                f"The mcp_approval_request of {tool[:80]!r} is none that this server made for you, or was changed; ask again.",
                "input",
            )
        return call

    def use(self, identity: str) -> None:
        """The call is about to be run. Raises ``RequestError`` where it was before."""
        if identity in self._used:
            raise RequestError("This call was approved before, and is run once at most; ask again.", "input")
        self._used[identity] = None
        if len(self._used) > _MOST:
            del self._used[next(iter(self._used))]

    def _mark(self, owner: Owner, call: str, once: str, tool: str, arguments: Mapping[str, Any]) -> str:
        said = orjson.dumps([owner, call, once, tool, arguments], option=orjson.OPT_SORT_KEYS)
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()[:32]
