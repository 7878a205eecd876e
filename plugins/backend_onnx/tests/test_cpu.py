"""What /proc/cpuinfo says of a processor, and which kernels follow."""

from __future__ import annotations

import platform

import pytest

from llmasos_backend_onnx import cpu
from llmasos_backend_onnx.options import Options
from llmasos_hookspecs import EngineLimits
from llmasos_hookspecs.testing import tiny_checkpoint

_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm"


def arm(*cores: str) -> str:
    """A text as Linux writes it on ARM64: a paragraph for each core, with its further features."""
    return "\n\n".join(
        f"processor\t: {number}\nBogoMIPS\t: 50.00\nFeatures\t: {_BASE} {features}\nCPU implementer\t: 0x41\nCPU architecture: 8"
        for number, features in enumerate(cores)
    )


X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu sse2 avx2 avx512_vnni amx_int8\nbugs\t\t: spectre_v1\n"


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (arm("lrcpc dcpop asimddp ssbs"), {"dotprod"}),
        (arm("asimddp sve i8mm bf16", "asimddp sve i8mm bf16"), {"dotprod", "i8mm", "sve"}),
        (arm("asimddp sve sve2 i8mm svei8mm"), {"dotprod", "i8mm", "sve", "sve2"}),
        (arm(""), set()),
        (arm("asimddp i8mm", "asimddp"), {"dotprod"}),  # large and small cores
        (X86, {"fpu", "sse2", "avx2", "avx512_vnni", "amx_int8"}),
        ("processor\t: 0\nmodel name\t: something else\n", set()),
        ("", set()),
    ],
    ids=["Neoverse N1", "Neoverse V1", "Neoverse V2", "Cortex-A72", "two kinds of core", "x86", "no such line", "empty"],
)
def test_features_are_those_that_every_core_has(text: str, features: set[str]) -> None:
    assert cpu.features_in(text) == features


@pytest.mark.parametrize(("flags", "expected"), [({"dotprod"}, "int8"), ({"dotprod", "i8mm", "sve"}, "int8"), (set(), "fp32")])
def test_an_arm_processor_rounds_prompts_to_int8_where_it_has_kernels_for_that(
    flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset(flags))
    assert cpu.prefill_activations(Options(), tiny_checkpoint("llama").decoder, EngineLimits()) == expected


def test_int8_products_of_an_arm_processor_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "_flags", frozenset)
    cpu.check_int8_gemm("precision", "int8_channel")
