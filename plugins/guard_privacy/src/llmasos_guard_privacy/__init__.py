"""The guard `privacy`: finds personal data and secrets in texts, and redacts them or blocks what holds them."""

from __future__ import annotations

from llmasos_guard_privacy.guard import PrivacyGuard
from llmasos_guard_privacy.options import Options
from llmasos_hookspecs import Component, Context, Guard, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Redact or block personal data and secrets.", options=Options)


@hookimpl
def llmasos_create_guard(options: Options, context: Context) -> Guard:
    return PrivacyGuard(options)
