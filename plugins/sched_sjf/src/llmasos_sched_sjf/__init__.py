"""Shortest expected job first."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, SchedulingPolicy, hookimpl
from llmasos_sched_sjf.policy import Options, ShortestJob

__all__ = ["Options", "ShortestJob"]


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="The shortest expected job first, none overtaken for longer than a bound.", options=Options)


@hookimpl
def llmasos_create_scheduler(options: Options, context: Context) -> SchedulingPolicy:
    return ShortestJob(options)
