"""LLMasOS's own tests of access control and of commands, run on this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos_access_keys.audit import AuditLog
from llmasos_access_keys.keys import KeyLimits
from llmasos_access_keys.store import open_store
from llmasos_hookspecs import AuditEvent, Credentials
from llmasos_hookspecs.testing import AccessConformance, CommandConformance

FOLDER = ("--folder", "access")


class TestAccess(AccessConformance):
    module = "llmasos_access_keys"
    limit = 100

    @classmethod
    def set_up(cls, folder: Path) -> Mapping[str, Any]:
        store = open_store(folder / "access")
        made = [
            store.keys.create("kit", tenant="t", limits=limits, now=1_700_000_000.0)
            for limits in (KeyLimits(), KeyLimits(tokens_per_day=100))
        ]
        cls.known, cls.limited = (Credentials(scheme="bearer", secret=text) for _, text in made)
        return {"folder": str(folder / "access")}


class TestKeysCommand(CommandConformance):
    module = "llmasos_access_keys.keys_command"
    examples = (("create", "reader", *FOLDER), ("list", *FOLDER))

    def prepare(self, folder: Path) -> None:
        open_store(folder / "access").keys.create("kit", tenant="t", now=1_700_000_000.0)


class TestAuditCommand(CommandConformance):
    module = "llmasos_access_keys.audit_command"
    examples = (("verify", *FOLDER), ("show", *FOLDER), ("show", "--outcome", "denied", *FOLDER))

    def prepare(self, folder: Path) -> None:
        log: AuditLog = open_store(folder / "access").log
        for outcome in ("done", "denied"):
            log.append(AuditEvent(time=1.0, principal="k", tenant="t", action="generate", resource="model:m", outcome=outcome))
