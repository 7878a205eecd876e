"""Acceleration: stages are planned before a weight is read, each turns one checkpoint into the next, and suites measure each result."""

from llmasos.acceleration.plan import Plan, PlannedStage, plan_stages
from llmasos.acceleration.report import AccelerationReport, StageReport
from llmasos.acceleration.run import run_acceleration

__all__ = ["AccelerationReport", "Plan", "PlannedStage", "StageReport", "plan_stages", "run_acceleration"]
