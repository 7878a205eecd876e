"""Untrusted files: each is read or refused with one LLMasOSError, without a crash, large allocations or access outside its folder.

2,000 cases for each kind of file; ``make fuzz`` runs 100,000. Cases are drawn in parts of 2,000, each from its own seed, so that the long
run begins with those of every other run, and a part that failed can be repeated.
"""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import llmasos
from llmasos.runtime.chat_template import ChatTemplate
from llmasos.runtime.checkpoint import open_checkpoint
from llmasos.runtime.tokenizer import first_sight
from llmasos.system.isolation import ApartError
from llmasos_hookspecs import LLMasOSError

CASES: Final = int(os.environ.get("LLMASOS_FUZZ_CASES", "2000"))
PART: Final = 2000
#: Bytes that a case may take.
MEMORY: Final = 64 << 20
#: What no file may lead to, by the names of Python's audit events.
FORBIDDEN: Final = frozenset({"pickle.find_class", "subprocess.Popen", "os.system", "socket.connect", "os.remove", "os.rename", "os.mkdir"})
EDGES: Final = (0, 1, 2, 3, 8, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class _Events:
    """What one thread did; audit hooks cannot be taken off again, so there is one."""

    def __init__(self) -> None:
        self.thread: int | None = None  # of the case; what others do meanwhile is not its doing
        self.opened: list[str] = []
        self.forbidden: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread != threading.get_ident():
            return
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            self.opened.append(str(arguments[0]))
        elif event in FORBIDDEN:
            self.forbidden.append(f"{event} {arguments!r}")


_events = _Events()
sys.addaudithook(_events)
#: Modules are read where they are imported for the first time.
_CODE: Final = tuple({sys.prefix, sys.base_prefix, *(str(Path(part.__file__).parents[2]) for part in (llmasos,) if part.__file__)})


class _PeakMemory:
    """Bytes of the resident set over what they were: the memory of libraries that Python does not see. Always 0 where Linux is not."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
            self._before = self._status("VmRSS")
        except OSError:
            self._before = None

    def read(self) -> int:
        return 0 if self._before is None else self._status("VmHWM") - self._before

    @staticmethod
    def _status(key: str) -> int:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.partition(f"{key}:")[2].split(maxsplit=1)[0]) << 10


@contextmanager
def _contained(folder: Path) -> Iterator[None]:
    """Nothing but files of ``folder`` is opened inside, and little memory taken; an error of ours is as good as an answer."""
    peak = _PeakMemory()
    tracemalloc.start()
    _events.opened.clear()
    _events.forbidden.clear()
    _events.thread = threading.get_ident()
    try:
        with np.errstate(all="ignore"):
            yield
    except LLMasOSError as error:
        _check_sentence(error)
    finally:
        _events.thread = None
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert max(traced, peak.read()) < MEMORY
    assert not _events.forbidden
    for path in _events.opened:
        assert Path(path).resolve().is_relative_to(folder.resolve()) or path.startswith(_CODE), path


def _check_sentence(error: LLMasOSError) -> None:
    text = str(error)
    assert text.strip()
    assert len(text) < 5000  # a config's problems are told all at once
    assert "\n" not in text


Fuzz = Callable[..., None]


@pytest.fixture(autouse=True)
def _probed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried in a child process at first sight is tried in this one, where it is watched; nothing is remembered."""

    def here(_: str, data: bytes, **__: Any) -> None:
        try:
            first_sight.probe(data)
        except BaseException as error:
            raise ApartError(type(error).__name__, " ".join(str(error).split())) from error

    monkeypatch.setattr(first_sight, "run_apart", here)
    monkeypatch.setattr(first_sight, "Remembered", lambda _: set())


@pytest.fixture
def fuzz() -> Fuzz:
    """Run ``case`` on what the strategies draw, each time contained in ``folder``; ``share`` is its part of the cases of its kind.

    The case is given the values by position, and a context manager that contains what it wraps.
    """

    def run(case: Callable[..., None], *strategies: st.SearchStrategy[Any], folder: Path, share: float = 1.0) -> None:
        left = max(1, int(CASES * share))
        for part in range(-(-left // PART)):
            limits = settings(
                max_examples=min(PART, left - part * PART),
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            )

            def once(values: tuple[Any, ...]) -> None:
                case(*values, _contained(folder))

            seed(part)(limits(given(st.tuples(*strategies))(once)))()

    return run


Use = Callable[[Path], None]


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> Use:
    """Opens a checkpoint and looks at all that it offers."""

    def look(path: Path) -> None:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names():
            checkpoint.shape(name)
            checkpoint.tensor(name)
        for part in (lambda: checkpoint.decoder, lambda: checkpoint.digest, lambda: ChatTemplate.of(checkpoint), lambda: speak(checkpoint)):
            try:
                part()
            except LLMasOSError as error:
                _check_sentence(error)

    def speak(checkpoint: Any) -> None:
        tokenizer = checkpoint.tokenizer()
        tokenizer.decode(tokenizer.encode("Hello 天气 🙂 2024"))

    # What is imported on first use is read here, so that only files of the case are opened in a case.
    folder = tmp_path_factory.mktemp("warm")
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        (folder / name).write_text("{}")
    (folder / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    for path in (folder, folder / "x.gguf"):
        try:
            look(path)
        except LLMasOSError:
            continue
    return look


@pytest.fixture(scope="session")
def numbers() -> st.SearchStrategy[int]:
    """Unsigned 64-bit integers, those at the edges of smaller types most often."""
    return st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1))


@pytest.fixture(scope="session")
def values() -> st.SearchStrategy[Any]:
    """What JSON can hold."""
    leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
    names = st.sampled_from(["../outside.json", "/etc/passwd", "."])
    return st.recursive(
        leaves | names,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )


@pytest.fixture(scope="session")
def damaged(numbers: st.SearchStrategy[int]) -> Callable[..., st.SearchStrategy[bytes]]:
    """``data`` with 1, 2, 4 or 8 bytes of its first ``head`` overwritten at some places, and perhaps cut."""

    def strategy(data: bytes, head: int | None = None) -> st.SearchStrategy[bytes]:
        place = st.integers(0, (head or len(data)) - 1)
        edits = st.lists(st.tuples(place, st.sampled_from([1, 2, 4, 8]), numbers), max_size=4)

        def apply(changes: list[tuple[int, int, int]], cut: int | None) -> bytes:
            out = bytearray(data)
            for start, width, value in changes:
                out[start : start + width] = (value % 256**width).to_bytes(width, "little")
            return bytes(out if cut is None else out[:cut])

        return st.builds(apply, edits, st.none() | st.integers(0, len(data)))

    return strategy
