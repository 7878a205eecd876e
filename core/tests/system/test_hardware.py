"""What this process may use of the machine is read right under every kind of limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from llmasos.system import cgroup
from llmasos.system.hardware import cores, kv_room, memory, processor


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
    assert cores(root).usable > 0
    assert memory(root).available >= 0


def test_this_machine_is_described_within_what_is_possible():
    assert 1 <= cores().physical <= cores().logical
    assert 0 < cores().usable <= len(os.sched_getaffinity(0))
    assert 0 < memory().available <= memory().total


def test_limits_bound_what_is_usable(tmp_path):
    group = {"sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/memory.max": "12345"}
    root = put(tmp_path, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a\n", **group})
    assert cores(root).usable == 0.5
    assert (memory(root).limit, memory(root).available) == (12345, 12345)


def test_half_of_what_the_weights_leave_is_for_the_kv_cache():
    assert kv_room(1000, weight_bytes=200, limit=None) == 400
    assert kv_room(1000, weight_bytes=200, limit=500) == 150
    assert kv_room(1000, weight_bytes=2000, limit=None) == 0


def test_a_processor_is_told_by_its_model_and_instruction_sets(tmp_path):
    """The first core speaks for all; speeds of the moment and other cores' numbers are no part of it."""
    (tmp_path / "proc").mkdir()
    info = tmp_path / "proc" / "cpuinfo"

    def told(text):
        info.write_text(text, encoding="utf-8")
        return processor(tmp_path)

    first = told("processor\t: 0\nmodel name\t: Fast\ncpu MHz\t: 2000\nflags\t: avx2 amx_bf16\n\nmodel name\t: Fast\nflags\t: x\n")
    assert "flags:avx2 amx_bf16" in first
    assert "model name:Fast" in first
    assert told("model name\t: Fast\ncpu MHz\t: 3000\nflags\t: avx2 amx_bf16\n") == first
    assert told("model name\t: Fast\nflags\t: avx2\n") != first
    info.unlink()
    assert processor(tmp_path)
