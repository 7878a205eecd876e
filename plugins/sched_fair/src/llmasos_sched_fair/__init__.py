"""Weighted fair sharing between tenants."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, SchedulingPolicy, hookimpl
from llmasos_sched_fair.policy import FairShare, Options

__all__ = ["FairShare", "Options"]


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Each tenant gets its share of the tokens computed, by weight.", options=Options)


@hookimpl
def llmasos_create_scheduler(options: Options, context: Context) -> SchedulingPolicy:
    return FairShare(options)
