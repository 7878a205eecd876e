"""Tasks over many inputs, and batches that resume."""

from llmasos.api.tasks.batch import BatchReport, run_batch
from llmasos.api.tasks.concurrency import BatchProgress
from llmasos.api.tasks.inputs import make_inputs
from llmasos.api.tasks.results import ResultFile
from llmasos.api.tasks.rows import InputRow, read_rows
from llmasos.api.tasks.run import run_rows

__all__ = ["BatchProgress", "BatchReport", "InputRow", "ResultFile", "make_inputs", "read_rows", "run_batch", "run_rows"]
