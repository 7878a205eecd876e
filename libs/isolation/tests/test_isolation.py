"""A function that runs apart is held within its limits, and nothing of the user's gets into it."""

from __future__ import annotations

import os
import sys
import time

import pytest

from llmasos_hookspecs import ApartError, ApartLimits, CheckpointError
from llmasos_isolation import code_command, run_apart
from llmasos_isolation.landlock import has_landlock

EVAL = "builtins:eval"
LINUX = sys.platform == "linux"


def failure(code: str, **limits: float) -> ApartError:
    with pytest.raises(ApartError) as caught:
        run_apart(EVAL, code.encode(), limits=ApartLimits(**limits))
    return caught.value


def failures(ways: list[str]) -> list[str]:
    """What each of several expressions raises in one process; nothing where it succeeds."""
    code = f"""
found = []
for way in {ways!r}:
    try:
        eval(way)
    except BaseException as error:
        found.append(type(error).__name__)
    else:
        found.append("")
"""
    found: list[str] = run_apart(EVAL, f"(lambda names: (exec({code!r}, names), names['found'])[1])({{}})".encode())
    return found


def test_plain_data_goes_in_and_comes_out():
    assert run_apart(EVAL, b"{'a': [1, 2.5, None, 'x' * 3]}") == {"a": [1, 2.5, None, "xxx"]}


def test_an_error_comes_back_as_its_kind_and_a_sentence():
    found = failure("int('seven')")
    assert (found.kind, found.sentence) == ("ValueError", "invalid literal for int() with base 10: 'seven'")


@pytest.mark.skipif(not LINUX, reason="RLIMIT_AS is enforced on Linux")
def test_memory_is_bounded():
    assert failure("len(bytearray(1 << 33))").kind == "MemoryError"


def test_time_is_bounded_by_the_clock_and_by_the_processor():
    began = time.monotonic()
    assert failure("__import__('time').sleep(600)", seconds=0.5).kind == "Timeout"
    assert failure("sum(1 for _ in iter(int, 1))", cpu_seconds=1).kind == "Killed"
    assert time.monotonic() - began < 300


@pytest.mark.skipif(not LINUX, reason="other systems have the limits alone")
def test_no_process_program_or_connection_can_be_made():
    ways = [
        "__import__('socket').socket()",
        "__import__('os').fork()",
        "__import__('os').posix_spawn('/bin/true', ['true'], {})",
        "__import__('os').execv('/bin/true', ['true'])",
        "__import__('subprocess').run(['true'])",
    ]
    assert failure(ways[0]).kind in ("PermissionError", "BlockingIOError")
    assert set(failures(ways)) <= {"PermissionError", "BlockingIOError"}


def test_a_crash_of_a_library_is_an_error_and_no_crash_of_ours():
    """The kernel's log then has a line of a segmentation fault at address 0 in strlen, which is meant."""
    assert failure("__import__('ctypes').string_at(0)").kind == "Killed"
    assert failure("__import__('os')._exit(3)").kind == "Killed"


def test_what_it_writes_is_bounded(tmp_path):
    failure(f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes(1 << 21))")
    assert not (tmp_path / "file").exists() or (tmp_path / "file").stat().st_size <= 1 << 20
    assert failure("'x' * (1 << 21)").kind == "Killed"


@pytest.mark.skipif(not has_landlock(), reason="this system cannot refuse a process to write")
def test_no_file_can_be_written(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    there, new = folder / "there", folder / "new"
    there.write_text("as it was")
    ways = [
        f"open({str(there)!r}, 'a')",
        f"open({str(new)!r}, 'w')",
        *(
            f"__import__('os').{call}"
            for call in (
                f"remove({str(there)!r})",
                f"rename({str(there)!r}, {str(new)!r})",
                f"mkdir({str(new)!r})",
                f"symlink({str(there)!r}, {str(new)!r})",
                f"link({str(there)!r}, {str(new)!r})",
                f"truncate({str(there)!r}, 0)",
            )
        ),
    ]
    assert set(failures(ways)) <= {"PermissionError", "OSError"}
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"there": "as it was"}


def test_an_error_of_ours_comes_back_as_itself():
    with pytest.raises(CheckpointError, match="no model") as caught:
        run_apart(EVAL, b"(_ for _ in ()).throw(__import__('llmasos_hookspecs').CheckpointError('There is no model in it.'))")
    assert type(caught.value) is CheckpointError


def test_all_plain_data_goes_both_ways():
    value = {"a": [1, -2.5, None, True, "é\n\ud800", {"b": b"\x00\xff"}], "c": b"", "d": [b"x" * 1000, []]}
    assert run_apart("copy:copy", value) == value


@pytest.mark.parametrize("value", [{1: 2}, object(), {"\0bytes": 1}, {1, 2}])
def test_what_is_no_plain_data_is_refused(value):
    with pytest.raises(TypeError, match="plain data"):
        run_apart("copy:copy", value)


def test_the_environments_secrets_and_the_working_folder_stay_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("json.py", "attrs.py", "sitecustomize.py", "llmasos.py", "ctypes.py"):
        (tmp_path / name).write_text("raise SystemExit('a decoy ran')")
    seen = run_apart(EVAL, b"[dict(__import__('os').environ), __import__('os').getcwd(), __import__('sys').path]")
    assert "A_SECRET_TOKEN" not in seen[0]
    assert seen[1] == os.path.abspath(os.sep)
    assert str(tmp_path) not in seen[2]
    assert "" not in seen[2]


def test_every_command_line_of_a_child_is_isolated():
    assert code_command("pass")[1] == "-I"
