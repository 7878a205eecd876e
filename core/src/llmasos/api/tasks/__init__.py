"""Tasks over many inputs: batches that resume, and evaluation on a user's own examples."""

from llmasos.api.tasks.batch import BatchReport, run_batch
from llmasos.api.tasks.concurrency import BatchProgress
from llmasos.api.tasks.evaluation import EvaluationRow, TaskEvaluation, evaluate_task
from llmasos.api.tasks.inputs import make_inputs
from llmasos.api.tasks.metrics import ClassificationMetrics, area_under_curve, classification_metrics, text_metrics, translation_metrics
from llmasos.api.tasks.results import ResultFile
from llmasos.api.tasks.rows import InputRow, read_rows

__all__ = [
    "BatchProgress",
    "BatchReport",
    "ClassificationMetrics",
    "EvaluationRow",
    "InputRow",
    "ResultFile",
    "TaskEvaluation",
    "area_under_curve",
    "classification_metrics",
    "evaluate_task",
    "make_inputs",
    "read_rows",
    "run_batch",
    "text_metrics",
    "translation_metrics",
]
