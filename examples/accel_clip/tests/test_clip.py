"""The example against the contract."""

from typing import ClassVar

from llmasos_hookspecs.testing import AcceleratorConformance


class TestConformance(AcceleratorConformance):
    module = "accel_clip"
    options: ClassVar = {"deviations": 2.0}
