"""Earliest deadline first."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, SchedulingPolicy, hookimpl
from llmasos_sched_deadline.policy import EarliestDeadline, Options

__all__ = ["EarliestDeadline", "Options"]


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="The earliest deadline first; refuses what cannot be done in time.", options=Options)


@hookimpl
def llmasos_create_scheduler(options: Options, context: Context) -> SchedulingPolicy:
    return EarliestDeadline(options)
