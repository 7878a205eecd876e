"""Measures models: perplexity and divergence on a corpus, speed, and size."""

from llmasos.evaluation.backend import Backend
from llmasos.evaluation.context import fitting_length
from llmasos.evaluation.corpus import Corpus
from llmasos.evaluation.measure import Measurement, measure
from llmasos.evaluation.model_under_test import ModelUnderTest
from llmasos.evaluation.quality import Quality, measure_quality
from llmasos.evaluation.reference import DequantizedCheckpoint
from llmasos.evaluation.size import Size, measure_size
from llmasos.evaluation.speed import Speed, measure_speed
from llmasos.evaluation.suites import NamedSuite, measure_suites

__all__ = [
    "Backend",
    "Corpus",
    "DequantizedCheckpoint",
    "Measurement",
    "ModelUnderTest",
    "NamedSuite",
    "Quality",
    "Size",
    "Speed",
    "fitting_length",
    "measure",
    "measure_quality",
    "measure_size",
    "measure_speed",
    "measure_suites",
]
