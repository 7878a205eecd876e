"""TensorFlow is imported without Keras, which can still be imported afterwards."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from llmasos_backend_tf.framework import _without_keras

NAME = "keras.src.optimizers"


def test_keras_is_out_of_reach_during_the_first_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorflow", NAME):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with _without_keras():
        with pytest.raises(ModuleNotFoundError, match=NAME):
            importlib.import_module(NAME)
        monkeypatch.setitem(sys.modules, "tensorflow", sys)  # another thread comes while the first imports it
        with _without_keras():
            pass
        assert sys.modules[NAME] is None  # type: ignore[comparison-overlap] # the import system's own mark
    assert NAME not in sys.modules


def test_keras_stays_where_it_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, NAME, sys)
    with _without_keras():
        assert sys.modules[NAME] is sys
    assert sys.modules[NAME] is sys


@pytest.mark.long  # a process that imports both
def test_tensorflow_does_without_and_finds_it_later() -> None:
    code = (
        "import sys\n"
        "from llmasos_backend_tf.framework import import_tensorflow\n"
        "tf, _ = import_tensorflow()\n"
        "assert not {'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "import keras\n"
        "assert tf.keras.optimizers.Adam is keras.optimizers.Adam\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=300, check=True)
