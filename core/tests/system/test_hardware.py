"""What the machine is, and what this process may use of it, is read right under every kind of limit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from llmasos.system import cgroup, hardware
from llmasos.system.hardware import Cpu, Hardware, Memory, Storage, defaults, measure_bandwidth, probe

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


def mounts(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


V2 = mounts("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")
V1 = mounts(
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
)


def test_version_2_limits_are_the_tightest_of_the_group_and_those_above(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/user/app\n",
            "sys/fs/cgroup/user/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user/memory.max": "4294967296\n",
            "sys/fs/cgroup/user/memory.current": "1000000\n",
            "sys/fs/cgroup/user/app/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user/app/memory.max": "1073741824\n",
            "sys/fs/cgroup/user/app/memory.current": "600000000\n",
            "sys/fs/cgroup/user/app/memory.stat": "anon 1\ninactive_file 100000000\n",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(cpus=1.5, memory=1 << 30, memory_used=500_000_000)


def test_a_group_above_with_less_room_is_the_one_that_counts(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/user/app\n",
            "sys/fs/cgroup/user/memory.max": "2000\n",
            "sys/fs/cgroup/user/memory.current": "1900\n",
            "sys/fs/cgroup/user/app/memory.max": "1000\n",
            "sys/fs/cgroup/user/app/memory.current": "500\n",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(cpus=None, memory=2000, memory_used=1900)


def test_version_1_limits_are_read(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/mountinfo": V1,
            "proc/self/cgroup": "5:cpu,cpuacct:/app\n4:memory:/app\n1:name=systemd:/\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "2000\n",
            "sys/fs/cgroup/memory/app/memory.usage_in_bytes": "900\n",
            "sys/fs/cgroup/memory/app/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(cpus=0.5, memory=2000, memory_used=700)


def test_inside_a_container_the_mounts_own_root_is_the_group(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/mountinfo": mounts("30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw"),
            "proc/self/cgroup": "0::/docker/abc\n",
            "sys/fs/cgroup/memory.max": "3000\n",
            "sys/fs/cgroup/cpu.max": "200000 100000",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(cpus=2.0, memory=3000, memory_used=0)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/mountinfo": "rubbish\n- \n", "proc/self/cgroup": "rubbish\n"},
        {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"},
        {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/cpu.max": "", "sys/fs/cgroup/memory.max": "x"},
        {"proc/self/mountinfo": V1, "proc/self/cgroup": "4:memory:/gone\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "-1"},
    ],
)
def test_without_limits_or_with_rubbish_nothing_is_limited(tmp_path, files):
    assert cgroup.limits(put(tmp_path, files)) == cgroup.Limits()


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20))
def test_any_rubbish_in_the_systems_files_is_survived(tmp_path_factory, mountinfo, group, value):
    root = tmp_path_factory.mktemp("root")
    put(root, {"proc/self/mountinfo": V2 + mountinfo, "proc/self/cgroup": "0::/a\n" + group, "sys/fs/cgroup/a/memory.max": value})
    cgroup.limits(root)
    put(root, {"proc/cpuinfo": mountinfo, "sys/devices/system/cpu/cpu0/cache/index0/size": value})
    probe(root)


def test_an_x86_processor_is_described(tmp_path):
    cache = "sys/devices/system/cpu/cpu0/cache"
    files = {"proc/cpuinfo": CPUINFO}
    rows = (("1", "Data", "48K", "0"), ("2", "Unified", "2048K", "0-1"), ("3", "Unified", "32M", "0-7,16-23"))
    for index, row in enumerate(rows):
        files |= {
            f"{cache}/index{index}/{key}": value for key, value in zip(("level", "type", "size", "shared_cpu_list"), row, strict=True)
        }
    cpu = probe(put(tmp_path, files)).cpu
    assert cpu.model == "Some CPU @ 2.00GHz"
    assert set(cpu.features) >= {"avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "fma"}
    assert "vmx" not in cpu.features
    assert [(each.level, each.size, each.shared_by) for each in cpu.caches] == [(1, 48 << 10, 1), (2, 2 << 20, 2), (3, 32 << 20, 16)]


def test_an_arm_processor_is_described(tmp_path):
    assert set(probe(put(tmp_path, {"proc/cpuinfo": ARM})).cpu.features) == {"neon", "dotprod", "fp16", "i8mm", "bf16", "sve"}


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
    found = probe(tmp_path).gpus
    described = [(gpu.name, gpu.vendor, gpu.memory, gpu.memory_free) for gpu in found]
    assert described == [("NVIDIA Test", "nvidia", 0, 0), ("AMD GPU", "amd", 1000, 600)]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559, 81000, 550.1'\n")
    tool.chmod(0o755)
    gpu = probe(tmp_path).gpus[0]
    assert (gpu.name, gpu.memory, gpu.memory_free, gpu.driver) == ("NVIDIA H100", 81559 << 20, 81000 << 20, "550.1")


def test_this_machine_is_described_within_what_is_possible():
    found = probe()
    assert 1 <= found.cpu.physical_cores <= found.cpu.logical_cores
    assert 0 < found.cpu.usable_cores <= len(os.sched_getaffinity(0))
    assert 0 < found.memory.available <= found.memory.total
    assert found.storage.free <= found.storage.total
    json.dumps(found.to_mapping())


def test_limits_bound_what_is_usable(tmp_path):
    group = {"sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/memory.max": "12345"}
    found = probe(put(tmp_path, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a\n", **group}))
    assert found.cpu.usable_cores == 0.5
    assert (found.memory.limit, found.memory.available) == (12345, 12345)
    assert defaults(found).threads == 1


def machine(cores: int = 8, usable: float = 8.0, available: int = 16 << 30) -> Hardware:
    return Hardware(
        system="test",
        cpu=Cpu(model="", architecture="", features=(), physical_cores=cores, logical_cores=2 * cores, usable_cores=usable),
        memory=Memory(total=64 << 30, available=available),
        gpus=(),
        storage=Storage(path="", total=0, free=0),
    )


def test_threads_are_the_physical_cores_that_may_be_used():
    assert defaults(machine()).threads == 8
    assert defaults(machine(usable=16.0)).threads == 8
    assert defaults(machine(usable=3.7)).threads == 3
    assert defaults(machine(usable=0.2)).threads == 1


def test_batch_and_context_shrink_to_the_memory_batch_first():
    kv = 46080
    roomy = defaults(machine(), weight_bytes=100 << 20, kv_bytes_per_token=kv, context_length=8192)
    tight = defaults(machine(available=3 << 30), weight_bytes=100 << 20, kv_bytes_per_token=kv, context_length=8192)
    tiny = defaults(machine(), weight_bytes=100 << 20, kv_bytes_per_token=kv, context_length=8192, memory=300 << 20)
    assert (roomy.max_sequences, roomy.context_length) == (8, 8192)
    assert (tight.max_sequences, tight.context_length) == (4, 8192)
    assert (tiny.max_sequences, tiny.context_length) == (1, 2048)


@given(
    available=st.integers(0, 1 << 40),
    weights=st.integers(0, 1 << 38),
    kv=st.integers(0, 1 << 20),
    context=st.none() | st.integers(1, 1 << 20),
    memory=st.none() | st.integers(1, 1 << 40),
)
def test_defaults_always_fit_or_are_the_smallest_there_are(available, weights, kv, context, memory):
    found = defaults(machine(available=available), weight_bytes=weights, kv_bytes_per_token=kv, context_length=context, memory=memory)
    room = max(0, min(available, memory or available) - weights) // 2
    assert found.max_sequences >= 1
    assert 1 <= found.context_length <= (context or 4096)
    assert found.max_sequences * found.context_length * kv <= room or (found.max_sequences == 1 and found.context_length <= 256)


def test_bandwidth_is_measured_on_one_thread_and_several(monkeypatch):
    monkeypatch.setattr(hardware, "_psutil", lambda: Small)
    for threads in (1, 2):
        found = measure_bandwidth(threads, seconds=0.01)
        assert found.threads == threads
        assert found.read > 0
        assert found.copy > 0


@attrs.frozen
class _Memory:
    available: int = 64 << 20


class Small:
    """A machine with little memory, so that the measurement stays small."""

    @staticmethod
    def virtual_memory() -> _Memory:
        return _Memory()
