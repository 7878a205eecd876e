"""Text, perplexity and divergence: how good a model still is."""

from llmasos.runtime.evaluation.corpus import Corpus

__all__ = ["Corpus"]
