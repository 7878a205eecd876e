"""Measurements against peers; ``python -m benchmarks --help``."""
