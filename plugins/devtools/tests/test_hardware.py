"""``doctor`` describes what the machine is, and measures its memory bandwidth."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from llmasos_devtools.doctor import hardware
from llmasos_devtools.doctor.hardware import describe, gpus, measure_bandwidth, processor

CPUINFO = """\
processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse4_2 avx f16c fma avx2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16 amx_tile amx_int8 vmx

processor\t: 1
model name\t: Some CPU @ 2.00GHz
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp asimdhp i8mm bf16 sve\nCPU implementer\t: 0x41\n"


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_rubbish_in_the_systems_files_is_survived(tmp_path_factory, text, size):
    root = tmp_path_factory.mktemp("root")
    processor(put(root, {"proc/cpuinfo": text, "sys/devices/system/cpu/cpu0/cache/index0/size": size}))


def test_an_x86_processor_is_described(tmp_path):
    cache = "sys/devices/system/cpu/cpu0/cache"
    files = {"proc/cpuinfo": CPUINFO}
    rows = (("1", "Data", "48K", "0"), ("2", "Unified", "2048K", "0-1"), ("3", "Unified", "32M", "0-7,16-23"))
    for index, row in enumerate(rows):
        files |= {
            f"{cache}/index{index}/{key}": value for key, value in zip(("level", "type", "size", "shared_cpu_list"), row, strict=True)
        }
    cpu = processor(put(tmp_path, files))
    assert cpu.model == "Some CPU @ 2.00GHz"
    assert set(cpu.features) >= {"avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "fma"}
    assert "vmx" not in cpu.features
    assert [(each.level, each.size, each.shared_by) for each in cpu.caches] == [(1, 48 << 10, 1), (2, 2 << 20, 2), (3, 32 << 20, 16)]


def test_an_arm_processor_is_described(tmp_path):
    assert set(processor(put(tmp_path, {"proc/cpuinfo": ARM})).features) == {"neon", "dotprod", "fp16", "i8mm", "bf16", "sve"}


def test_macos_is_described():
    text = "machdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.AdvSIMD: 1\nhw.optional.arm.FEAT_BF16: 0\n"
    assert hardware._cpu_info_of_macos(text) == ("Apple M2", ("neon", "dotprod"))


def test_gpus_are_found_through_their_drivers_without_a_framework(tmp_path, monkeypatch):
    files = {
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA Test\nIRQ: 3\n",
        "sys/class/drm/card1/device/vendor": "0x1002\n",
        "sys/class/drm/card1/device/mem_info_vram_total": "1000\n",
        "sys/class/drm/card1/device/mem_info_vram_used": "400\n",
        "sys/class/drm/card2/device/vendor": "0x8086\n",
    }
    put(tmp_path, files)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpus(tmp_path)
    described = [(gpu.name, gpu.vendor, gpu.memory, gpu.memory_free) for gpu in found]
    assert described == [("NVIDIA Test", "nvidia", 0, 0), ("AMD GPU", "amd", 1000, 600)]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559, 81000, 550.1'\n")
    tool.chmod(0o755)
    gpu = gpus(tmp_path)[0]
    assert (gpu.name, gpu.memory, gpu.memory_free, gpu.driver) == ("NVIDIA H100", 81559 << 20, 81000 << 20, "550.1")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures for a moment only."""
    measure = measure_bandwidth
    monkeypatch.setattr(hardware, "measure_bandwidth", lambda threads, *, available: measure(threads, available=available, seconds=0.01))


def system(tmp_path: Path, physical: int = 8, usable: float = 8.0) -> dict[str, object]:
    """What core knows of a machine with little memory, so that the measurement stays small."""
    cores = {"physical": physical, "logical": 2 * physical, "usable": usable}
    memory = {"total": 1 << 30, "available": 64 << 20, "limit": None}
    return {"cores": cores, "memory": memory, "folders": {"data": str(tmp_path / "not" / "there")}}


def test_the_machine_is_plain_data_with_what_core_knows_of_it(tmp_path, quick):
    found = json.loads(json.dumps(describe(system(tmp_path, physical=2, usable=1.5))))
    assert (found["cpu"]["physical_cores"], found["cpu"]["logical_cores"], found["cpu"]["usable_cores"]) == (2, 4, 1.5)
    assert found["cpu"]["architecture"] == platform.machine()
    assert found["memory"]["available"] == 64 << 20
    assert found["storage"]["path"] == str(tmp_path / "not" / "there")
    assert 0 <= found["storage"]["free"] <= found["storage"]["total"]
    assert [each["threads"] for each in found["bandwidth"]] == [1]


@pytest.mark.parametrize(("physical", "usable", "threads"), [(8, 8.0, 8), (8, 16.0, 8), (8, 3.7, 3), (8, 0.2, 1)])
def test_threads_are_the_physical_cores_that_may_be_used(tmp_path, quick, physical, usable, threads):
    found = describe(system(tmp_path, physical, usable))
    assert found["defaults"] == {"threads": threads}
    assert {each["threads"] for each in found["bandwidth"]} == {1, threads}


def test_bandwidth_is_measured_on_one_thread_and_several():
    for threads in (1, 2):
        found = measure_bandwidth(threads, available=64 << 20, seconds=0.01)
        assert found.threads == threads
        assert found.read > 0
        assert found.copy > 0
