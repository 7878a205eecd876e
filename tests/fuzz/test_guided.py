"""Targets of guided fuzzing: each starts, reads its seeds and survives damage; the runner notices what no reader may do."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fuzz.mutation import json_file, safetensors_file, tar_file, zip_file
from benchmarks.fuzz.protobuf import message, protobuf_file
from benchmarks.fuzz.runner import DidNotStart, Report, run_target
from benchmarks.fuzz.target import Room
from benchmarks.fuzz.targets import TARGETS, make_target
from core.tests.forked_children import ForkedChild, ForkedChildren
from hypothesis import settings

#: Changed inputs that each target reads on each change, with ``make test-long`` twenty times as many; fewer where a framework is asked to
#: load what passes the checks.
MANY = settings.default.max_examples // (2 if settings.default.max_examples >= 500 else 4)
CASES = {**dict.fromkeys(TARGETS, MANY), "saved_model": MANY // 3, "pt2": MANY // 3, "keras": MANY // 4}

# Keras converts its tensors in a way that numpy 2 warns of, and TensorFlow warns of graphs that pass half of its checks.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    found = Room(folder=tmp_path / "model", scratch=tmp_path / "scratch")
    found.folder.mkdir()
    found.scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(found.scratch))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setenv("LLMASOS_HOME", str(found.scratch / "home"))
    return found


#: Readers that have a framework load what passes their checks, which takes most of the time: what they check has tests beside them, which
#: damage such files on each change.
LONG = ("saved_model", "pt2", "keras")


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.long] * (each in LONG)) for each in TARGETS])
def test_a_target_reads_its_seeds_and_refuses_damage_in_one_sentence(name: str, room: Room) -> None:
    """The seeds are sound, or the rest would be refused at the first byte; most changes differ from them."""
    target = make_target(name, room)
    for seed in target.seeds:
        target.warm(seed)
    rng = random.Random(0)
    made = [target.mutated(rng.choice(target.seeds), 1 << 20, number) for number in range(CASES[name])]
    assert len(set(made) - set(target.seeds)) > 0.5 * len(made)
    for data in (*target.seeds, *made):
        target.one(data)


PLANTED = """
    from benchmarks.fuzz.target import Target

    def target(room, read, seconds=0.3):
        path = room.folder / "x"
        path.write_bytes(b"seed")
        return Target(name="planted", seeds=[b"seed"], prepare=path.write_bytes, read=lambda: read(path), room=room, seconds=seconds)

    def on_damage(act):
        return lambda path: None if path.read_bytes() == b"seed" else act()

    def raises(room):
        return target(room, on_damage(lambda: {}["key"]))

    def sleeps(room):
        import time
        return target(room, on_damage(lambda: time.sleep(60)))

    def spins(room):
        def spin():
            while True: pass
        return target(room, on_damage(spin), seconds=0.15)

    def allocates(room):
        # Time enough on a busy machine: what it takes is told, and not how long.
        return target(room, on_damage(lambda: bytearray(b"x") * (300 << 20)), seconds=10)

    def writes(room):
        return target(room, on_damage(lambda: (room.folder / "written").write_text("x")))

    def deletes(room):
        import os
        def delete():
            try:
                os.rmdir("/nowhere-at-all")
            except OSError:
                pass
        return target(room, on_damage(delete))

    def connects(room):
        import socket
        def connect():
            with socket.socket() as one:
                one.settimeout(0.1)
                try:
                    one.connect(("127.0.0.1", 9))
                except OSError:
                    pass
        return target(room, on_damage(connect))

    def aborts(room):
        import os
        return target(room, on_damage(os.abort))

    def aborts_once(room):
        import os
        from pathlib import Path
        def abort():
            mark = Path(__file__).with_name("mark")
            if not mark.exists():
                mark.touch()
                os.abort()
        return target(room, on_damage(abort))

    def babbles(room):
        from llmasos_hookspecs import CheckpointError
        class Lines(CheckpointError):
            def __str__(self):
                return "one line\\nand another"
        def refuse():
            raise Lines()
        return target(room, on_damage(refuse))

    def is_sound(room):
        from llmasos_hookspecs import CheckpointError
        def refuse():
            raise CheckpointError("It is damaged; get it again.")
        return target(room, on_damage(refuse))

    def does_not_start(room):
        raise RuntimeError("no library")
"""


#: What a child of the runner begins with.
WARM = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import benchmarks.fuzz.child, benchmarks.fuzz.findings, benchmarks.fuzz.state, benchmarks.fuzz.target, benchmarks.fuzz.targets
"""
#: That child, with the folders that its environment names.
CHILD = """
import os, runpy, sys

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
runpy.run_module("benchmarks.fuzz.child", run_name="__main__", alter_sys=True)
"""


class Forks(ForkedChildren):
    """Starts the runner's children as forks of a process that has imported what they begin with."""

    def Popen(self, command: Sequence[str], *, cwd: Any = None, **how: Any) -> Any:
        assert list(command[:4]) == [sys.executable, "-P", "-m", "benchmarks.fuzz.child"]
        child = super().Popen([*command[:2], "-c", CHILD, *command[4:]], cwd=str(cwd), **how)
        assert isinstance(child, ForkedChild)
        return child


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("forks"), "-P", warm=WARM) as forks:
        yield forks


@pytest.fixture
def planted(tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Runs a target with a planted fault, without atheris."""
    monkeypatch.setattr("benchmarks.fuzz.runner.subprocess", forks)
    (tmp_path / "planted.py").write_text(textwrap.dedent(PLANTED))

    def run(name: str, seconds: int = 60) -> Report:
        return run_target(f"planted:{name}", seconds, tmp_path / "corpus", runs=5, guided=False, path=tmp_path)

    return run


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param("raises", "KeyError in planted.py", marks=pytest.mark.long),
        pytest.param("sleeps", "hang in planted.py", marks=pytest.mark.long),
        ("spins", "hang in planted.py"),
        ("allocates", "it took"),
        ("writes", "it led to open of"),
        pytest.param("deletes", "it led to os.rmdir of /nowhere-at-all", marks=pytest.mark.long),
        pytest.param("connects", "it led to socket.connect", marks=pytest.mark.long),
        ("aborts", "SIGABRT in planted.py"),
        ("babbles", "its error is no single sentence"),
    ],
)
def test_the_runner_catches_a_planted_fault(fault: str, kind: str, planted: Callable[..., Report]) -> None:
    """Each is one finding, with an input that shows it again."""
    report = planted(fault, 2)  # too short for a second child after one that ended
    assert [finding.kind[: len(kind)] for finding in report.findings] == [kind]
    assert report.findings[0].input.read_bytes() != b"seed"
    assert report.runs >= 2


def test_a_crash_that_does_not_repeat_is_told_as_such(planted: Callable[..., Report]) -> None:
    """It may come of the inputs before it."""
    report = planted("aborts_once")
    (finding,) = report.findings
    assert finding.kind.startswith("SIGABRT in planted.py")
    assert finding.kind.endswith("(abort), and not when its last input was read again")
    assert report.runs > 5  # another child followed


def test_what_was_found_is_forgotten_once_it_is_mended(tmp_path: Path, planted: Callable[..., Report]) -> None:
    """And a sound reader is no finding."""
    (finding,) = planted("raises").findings
    assert finding.kind.startswith("KeyError in planted.py")
    sound = planted("is_sound")
    assert sound.runs >= 5
    assert not sound.findings
    assert list((tmp_path / "corpus" / "corpus").iterdir())


def test_a_target_that_does_not_start_is_told(planted: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    """By an interpreter of its own, as the runner starts them."""
    monkeypatch.undo()
    with pytest.raises(DidNotStart, match="no library"):
        planted("does_not_start")


def kept_of(mutate: Callable[[bytes, random.Random], bytes], data: bytes, check: Callable[[bytes], object]) -> float:
    """Share of changed inputs that still are of their kind."""
    sound = 0
    for number in range(200):
        with contextlib.suppress(Exception):
            check(mutate(data, random.Random(number)))
            sound += 1
    return sound / 200


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        bundle.writestr("a/config.json", '{"a": [1, 2]}')
        bundle.writestr("a/data", b"x" * 100)
    return out.getvalue()


def unzipped(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        assert bundle.testzip() is None


def test_changes_keep_lengths_and_checksums_right() -> None:
    """Most changed inputs get past the header, and some are damaged there too."""
    import tarfile

    from benchmarks.fuzz.mutation import tar_of

    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(8)
    nested = message((1, 7), (2, message((1, "a"), (2, 1.5), (3, 300))), (2, message((1, "b"))))

    def read_header(data: bytes) -> None:
        size = int.from_bytes(data[:8], "little")
        json.loads(data[8 : 8 + size])

    def read_tape(data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tape:
            tape.getmembers()

    for mutate, data, check in (
        (json_file, header, json.loads),
        (safetensors_file, whole, read_header),
        (zip_file({".json": json_file}), archive(), unzipped),
        (tar_file, tar_of({"a": b"x", "b/c": b"y" * 600}, "w:gz"), read_tape),
        (protobuf_file, nested, fields_of),
    ):
        assert 0.5 < kept_of(mutate, data, check) < 1.0


def fields_of(data: bytes) -> None:
    """Walks a message of varints, bytes and float32."""
    at = 0
    while at < len(data):
        wire = data[at] & 7
        at += 1
        while data[at - 1] > 127:
            at += 1
        if wire == 2:
            size = data[at]
            assert size < 128
            at += 1 + size
        elif wire == 5:
            at += 4
        else:
            assert wire == 0
            while data[at] > 127:
                at += 1
            at += 1
    assert at == len(data)
