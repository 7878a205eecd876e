"""Priorities with ageing."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, SchedulingPolicy, hookimpl
from llmasos_sched_priority.policy import Options, PriorityAgeing

__all__ = ["Options", "PriorityAgeing"]


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="The most urgent first; waiting makes a request more urgent.", options=Options)


@hookimpl
def llmasos_create_scheduler(options: Options, context: Context) -> SchedulingPolicy:
    return PriorityAgeing(options)
