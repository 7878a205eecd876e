"""The loader kit."""

from __future__ import annotations

from llmasos_hookspecs.testing.loader import LoaderConformance


class TestConformance(LoaderConformance):
    module = "llmasos_backend_torch"
