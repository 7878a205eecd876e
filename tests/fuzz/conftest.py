"""Untrusted files: each is read or refused with one LLMasOSError, without a crash, large allocations or access outside its folder.

40 cases for each kind of file; ``make test-long`` runs 2,000, ``make fuzz`` 100,000. Cases are drawn in parts of 2,000, each from its
own seed, so that a part that failed can be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from benchmarks.fuzz.containment import contained
from benchmarks.fuzz.looking import look
from benchmarks.fuzz.probing import probed_here
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from llmasos_hookspecs import LLMasOSError

CASES: Final = int(os.environ.get("LLMASOS_FUZZ_CASES", "40"))
PART: Final = 2000
#: Bytes that a case may take.
MEMORY: Final = 64 << 20
EDGES: Final = (0, 1, 2, 3, 8, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


Fuzz = Callable[..., None]


@pytest.fixture(autouse=True)
def _probed_here() -> Iterator[None]:
    with probed_here():
        yield


@pytest.fixture
def fuzz() -> Fuzz:
    """Run ``case`` on what the strategies draw, each time contained in ``folder``; ``share`` is its part of the cases of its kind, and
    ``scratch`` the folder that its reader may write to.

    The case is given the values by position, and a context manager that contains what it wraps.
    """

    def run(
        case: Callable[..., None], *strategies: st.SearchStrategy[Any], folder: Path, share: float = 1.0, scratch: Path | None = None
    ) -> None:
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
                case(*values, contained(folder, MEMORY, scratch=scratch))

            seed(part)(limits(given(st.tuples(*strategies))(once)))()

    return run


Use = Callable[[Path], None]


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> Use:
    """Opens a checkpoint and looks at all that it offers."""

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
