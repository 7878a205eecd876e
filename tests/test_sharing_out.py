"""Processes that share the tests collect a file when its turn comes, and all that pytest tells of tests is told."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer

ROOT = Path(__file__).parents[1]
FILES = {
    "conftest.py": """
        import pytest

        @pytest.fixture(scope="session")
        def shared(request):
            open("made", "a").write("x")
            yield
            open("ended", "a").write(str(request.session.testsfailed))
    """,
    "test_plain.py": """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_numbers(number, shared):
            assert number != 1

        @pytest.mark.odd
        def test_odd():
            assert False
    """,
    "test_later.py": """
        def test_shares(shared):
            pass
    """,
    "inner/test_first.py": """
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        # The longest file, so that it is the first.
        def test_first():
            pass
    """,
    "inner/test_left_out.py": """
        # The second file, of which no test is run: what it shares with the first is left before the third.
        # The second file, of which no test is run: what it shares with the first is left before the third.
        # The second file, of which no test is run: what it shares with the first is left before the third.
        import pytest

        @pytest.mark.odd
        def test_left_out():
            pass
    """,
    "test_broken.py": "import nothing_of_that_name",
    "test_skipped.py": """
        import pytest

        pytest.importorskip("nothing_of_that_name")
    """,
    "pytest.ini": """
        [pytest]
        markers = odd
    """,
}


@pytest.fixture
def said(tmp_path: Path, fork_server: ForkServer) -> str:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(line.removeprefix("        ") for line in text.splitlines()))
    words = ["-pxdist.plugin", "-ppytest_timeout", "-ptests.sharing_out", "-pno:cacheprovider", "-n1", "-rA", "-mnot odd"]
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
    code = "import sys, pytest; sys.exit(pytest.main())"
    done = fork_server.said(*words, folder=tmp_path, code=code, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_files_are_collected_and_run_as_in_one_process(said: str, tmp_path: Path) -> None:
    """What passes, fails, is skipped, left out or cannot be imported; and what a session shares is made once."""
    told = sorted(line.partition(" - ")[0] for line in said.splitlines() if re.match(r"(PASSED|FAILED|SKIPPED|ERROR) ", line))
    assert told == [
        "ERROR test_broken.py",
        "FAILED test_plain.py::test_numbers[1]",
        "PASSED inner/test_first.py::test_first",
        "PASSED test_later.py::test_shares",
        "PASSED test_plain.py::test_numbers[0]",
        "PASSED test_plain.py::test_numbers[2]",
        "SKIPPED [1] test_skipped.py:4: could not import 'nothing_of_that_name': No module named 'nothing_of_that_name'",
    ]
    assert " 1 failed, 4 passed, 1 skipped, 1 error in " in said
    assert (tmp_path / "made").read_text() == "x"
    assert (tmp_path / "ended").read_text() == "2"
