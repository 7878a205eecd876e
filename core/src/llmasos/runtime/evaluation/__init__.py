"""Measures models: perplexity and divergence on a corpus, speed, and size."""

from llmasos.runtime.evaluation.context import fitting_length
from llmasos.runtime.evaluation.corpus import Corpus
from llmasos.runtime.evaluation.measure import Backend, Measurement, measure
from llmasos.runtime.evaluation.quality import Quality, measure_quality
from llmasos.runtime.evaluation.reference import DequantizedCheckpoint
from llmasos.runtime.evaluation.size import Size, measure_size
from llmasos.runtime.evaluation.speed import Speed, measure_speed
from llmasos.runtime.evaluation.throughput import Throughput, measure_throughput

__all__ = [
    "Backend",
    "Corpus",
    "DequantizedCheckpoint",
    "Measurement",
    "Quality",
    "Size",
    "Speed",
    "Throughput",
    "fitting_length",
    "measure",
    "measure_quality",
    "measure_size",
    "measure_speed",
    "measure_throughput",
]
