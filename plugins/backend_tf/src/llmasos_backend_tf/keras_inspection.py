"""The checks of a Keras model before Keras reads it: objects, sizes, weights; without Keras.

``inspect_preset`` and ``inspect_archive`` run in a process of its own when a model is first seen: only one that passes there is read in the
process that uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llmasos_backend_tf.keras_files import INDEX, check_sizes, check_weights, read_archive, read_json
from llmasos_backend_tf.keras_objects import check_objects

#: The version of the checks.
INSPECTION: Final = 1
#: What a preset may hold of objects beside config.json.
_OTHER_OBJECTS: Final = ("task.json", "preprocessor.json")
#: What is read of a preset beside config.json and its weights.
PRESET_FILES: Final = (*_OTHER_OBJECTS, INDEX)


def inspect_preset(config: str, *_: str) -> None:
    """``check_preset`` for a process of its own; ``config``: the path of config.json, beside which the other files lie."""
    check_preset(Path(config).parent)


def inspect_archive(path: str) -> None:
    """``check_archive`` for a process of its own."""
    check_archive(Path(path))


def check_preset(folder: Path) -> dict[str, Any]:
    """The configuration of a preset folder whose objects, sizes and weights are those of a decoder.

    Raises:
        CheckpointError: they are not.
    """
    config = read_json(folder / "config.json")
    check_objects(config, folder / "config.json")
    for name in _OTHER_OBJECTS:
        if (folder / name).is_file():
            check_objects(read_json(folder / name), folder / name)
    check_sizes(config, check_weights(folder), folder)
    return config


def check_archive(path: Path) -> None:
    """Check the objects and the weights of a ``.keras`` file. Raises ``CheckpointError``."""
    config = read_archive(path)
    # How it was trained is not read: Keras skips it where a model is not compiled.
    check_objects({key: value for key, value in config.items() if key != "compile_config"}, path)
