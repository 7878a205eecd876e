"""First come, first served."""

from __future__ import annotations

from llmasos_hookspecs import Component, Context, SchedulingPolicy, hookimpl
from llmasos_sched_fifo.policy import Fifo, Options

__all__ = ["Fifo", "Options"]


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="First come, first served.", options=Options)


@hookimpl
def llmasos_create_scheduler(options: Options, context: Context) -> SchedulingPolicy:
    return Fifo(options)
