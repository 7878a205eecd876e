"""The guard `injection`: blocks prompt injection on its way in, and the leak of a canary on its way out."""

from __future__ import annotations

from llmasos_guard_injection.guard import InjectionGuard
from llmasos_guard_injection.options import Options
from llmasos_hookspecs import Component, Context, Guard, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Block prompt injection and the leak of a canary.", options=Options)


@hookimpl
def llmasos_create_guard(options: Options, context: Context) -> Guard:
    return InjectionGuard(options)
