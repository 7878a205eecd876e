"""The contract of scheduling policies, for fifo."""

from __future__ import annotations

from llmasos_hookspecs.testing import SchedulerConformance


class TestConformance(SchedulerConformance):
    module = "llmasos_sched_fifo"
