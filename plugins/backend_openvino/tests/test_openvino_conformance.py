"""The loader passes the conformance kit, in float32, in bfloat16 and with activations of 8 bits, and of what other tools exported."""

import shutil
from pathlib import Path
from typing import ClassVar

import attrs
import pytest

from llmasos_backend_openvino.precision import has_bfloat16
from llmasos_hookspecs.testing import LoaderConformance, TinyCheckpoint, tiny_checkpoint

from .exporting import export


class TestConformance(LoaderConformance):
    """The decoders whose graphs differ most; test_openvino_families.py has more of them."""

    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32"}
    cases = ("llama", "mistral", "llama-q4-minimums", "phi")
    path_cases = ("llama", "llama-q4-minimums")


@pytest.mark.long
class TestEveryCase(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32"}


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU")
class TestBfloat16(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "bf16"}
    cases = ("llama", "llama-q4-minimums")


@pytest.mark.long  # test_openvino_weights.py has the logits
class TestInt8(LoaderConformance):
    """Activations of 8 bits, as ``auto`` has them where weights are stored in codes."""

    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32", "activations": "int8"}
    cases = ("llama-q4-minimums",)


@pytest.mark.long  # test_openvino_exports.py computes one in pieces and beside others
class TestExport(LoaderConformance):
    """A folder in the form that optimum-intel writes."""

    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32"}
    cases = ("llama",)

    exported: ClassVar[Path]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def export_once(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """For the dozen of tests that load it."""
        cls.exported = export(tmp_path_factory.mktemp("export") / "model", cls.cases[0]).path

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        return attrs.evolve(tiny_checkpoint(case), path=Path(shutil.copytree(cls.exported, folder)), format="openvino")
