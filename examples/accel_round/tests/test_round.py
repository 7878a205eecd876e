"""The example against the contract."""

from llmasos_hookspecs.testing import AcceleratorConformance


class TestConformance(AcceleratorConformance):
    module = "accel_round"
