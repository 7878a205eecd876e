"""Acceleration: planned before a weight is read, run from checkpoint to checkpoint, measured at every stage."""

from llmasos.runtime.acceleration.plan import Plan, PlannedStage, plan_stages
from llmasos.runtime.acceleration.report import AccelerationReport, EvaluationReport, StageReport
from llmasos.runtime.acceleration.run import run_acceleration

__all__ = ["AccelerationReport", "EvaluationReport", "Plan", "PlannedStage", "StageReport", "plan_stages", "run_acceleration"]
