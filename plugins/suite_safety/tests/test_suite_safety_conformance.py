"""LLMasOS's own tests of suites, run on these."""

from __future__ import annotations

from llmasos_hookspecs.testing import SuiteConformance


class TestSafety(SuiteConformance):
    module = "llmasos_suite_safety.safety"
    options = {  # noqa: RUF012 - plain, as an author writes it
        "pairs": 12,
        "controls": 8,
        "stories": 8,
        "encounters": 4,
        "secrets": 1,
        "plans": 2,
        "samples": 2,
        "tokens": 8,
        "requests": 2,
    }
    blind = True  # the kit's model that scores knows nothing of the weights


class TestIsolation(SuiteConformance):
    module = "llmasos_suite_safety.isolation"
    options = {"probes": 4, "words": 8}  # noqa: RUF012
    blind = True
