"""Imports TensorFlow without log output and configures its threads."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType


def import_tensorflow(threads: int | None = None, *, side_by_side: bool = True) -> tuple[ModuleType, str | None]:
    """TensorFlow, and a note if it already runs with another number of threads.

    With ``side_by_side`` the threads run different operations in parallel (inter-op), else parts of one operation (intra-op). Two matrix
    products in parallel, one thread each, are faster than one after the other on two threads, but need a graph with independent products.
    TensorFlow creates its thread pools once a process, so the first engine decides.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _quiet(), _without_keras(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow
    note = None
    threading = tensorflow.config.threading
    running = threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()
    if threads is not None and max(running) != threads:
        try:
            threading.set_intra_op_parallelism_threads(1 if side_by_side else threads)
            # More threads in both pools than cores would only take time from each other.
            threading.set_inter_op_parallelism_threads(threads if side_by_side else 1)
        except RuntimeError:
            note = f"TensorFlow already runs on {max(running) or 'all'} threads in this process, so {threads} could not be set."
    return tensorflow, note


def parallel_operations() -> int:
    """The number of operations that TensorFlow runs in parallel in this process."""
    import tensorflow

    return tensorflow.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1


def import_keras_hub() -> ModuleType:
    """KerasHub, on the TensorFlow backend of Keras."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras_hub
    return keras_hub


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what TensorFlow's C++ code writes to standard error during its import, before the log level applies."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Leave Keras out of TensorFlow's first import, which takes half as long then. TensorFlow imports it for the optimizers that a
    SavedModel may hold, of which no engine makes any, and does without where it is missing; Keras imports scikit-learn and matplotlib
    where they are installed. It is imported as ever where something needs it."""
    name = "keras.src.optimizers"
    if "tensorflow" in sys.modules or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # the import system's own mark of a module that is not to be found
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def first_line(error: BaseException) -> str:
    """The first line of a framework's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
