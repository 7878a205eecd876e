"""The files of Keras presets and ``.keras`` archives, read within bounds before Keras reads them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs
import numpy as np

from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.links import check_links
from llmasos_hookspecs import CheckpointError

#: The largest configuration that is read, and the most values in it. A decoder of 100 layers has 300 KB.
_MAX_JSON_BYTES: Final = 16 << 20
_MAX_JSON_VALUES: Final = 500_000
#: Members of an archive: configuration, metadata, weights, and the assets of a tokenizer.
_MAX_MEMBERS: Final = 100
#: How much larger weights may be than the file they lie in. Trained numbers hardly shrink; zeros do, and layers may begin with them.
_MOST_EXPANSION: Final = 20
_FREE_BYTES: Final = 64 << 20
#: Groups within groups of weights.
_DEEPEST: Final = 32

#: Settings of a preset that say how many layers it has, and how large its matrices are.
_COUNTS: Final = ("num_layers",)
_DIMENSIONS: Final = ("hidden_dim", "intermediate_dim", "vocabulary_size")

#: The table of a preset that has its weights in several files.
INDEX: Final = "model.weights.json"
_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.weights.h5"


def read_json(path: Path) -> dict[str, Any]:
    """A configuration of a preset folder.

    Raises:
        CheckpointError: it is missing, larger or deeper than any real one, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            return _parse(file.read(_MAX_JSON_BYTES + 1), path)
    except OSError as error:
        raise CheckpointError(f"{path} is missing or damaged ({error.strerror}); fetch the preset again.") from error


@attrs.frozen
class Stored:
    """How much a preset's files hold: weights, and bytes in all."""

    weights: int
    nbytes: int


def check_weights(folder: Path) -> Stored:
    """Check that the weights of a preset folder are inside it, have the declared sizes, and are finite; what there is of them.

    Raises:
        CheckpointError: a file leads elsewhere, is damaged, or holds NaN or infinity.
    """
    check_links(folder, sorted(folder.glob("*")))
    index = folder / INDEX
    if index.is_file():
        files = read_json(index).get("weight_map")
        listed = files.values() if isinstance(files, dict) else [None]
        names = [name for value in listed for name in (value if isinstance(value, list) else [value])]
        if not all(isinstance(name, str) and Path(name).name == name and (folder / name).is_file() for name in names):
            raise CheckpointError(f"{index} names weights that do not lie beside it; fetch the preset again.")
    found = []
    for file in sorted(folder.glob("*.h5")):
        with file.open("rb") as data:
            found.append(_check_weights(data, file.stat().st_size, file))
    return Stored(sum(each.weights for each in found), sum(each.nbytes for each in found))


def check_sizes(config: Mapping[str, Any], stored: Stored, folder: Path) -> None:
    """What a preset's configuration says of its size, held against its weights before Keras makes layers of it.

    Raises:
        CheckpointError: it has more layers than weights, or a matrix larger than all of them.
    """
    settings = config.get("config")
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{folder}/config.json has no settings of a model; fetch the preset again.")
    sizes = {key: settings[key] for key in (*_COUNTS, *_DIMENSIONS) if key in settings}
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise CheckpointError(f"{folder}/config.json has {str(size)[:40]} as {key}, and a whole number above 0 is due; fetch it again.")
    width = sizes.get("hidden_dim", 1)
    # Two codes of 4 bits lie in a byte.
    large = [key for key in _DIMENSIONS if sizes.get(key, 0) * (width if key != "hidden_dim" else 1) > 2 * stored.nbytes]
    large += [key for key in _COUNTS if sizes.get(key, 0) > stored.weights]
    if large:
        raise CheckpointError(
            f"{folder}/config.json has {str(sizes[large[0]])[:40]} as {large[0]}, more than its weights hold; fetch the preset again."
        )


def read_archive(path: Path) -> dict[str, Any]:
    """The configuration of a ``.keras`` archive whose weights are finite, and which is no larger than it should be.

    Raises:
        CheckpointError: it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            with archive.open(_CONFIG) as file:
                config = _parse(file.read(_MAX_JSON_BYTES + 1), path)
            if _WEIGHTS in archive.namelist():
                # Keras reads them into memory as well.
                data = archive.read(_WEIGHTS)
                _check_weights(io.BytesIO(data), len(data), path)
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is no whole .keras file ({first_line(error)}); save the model again.") from error
    return config


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    size = path.stat().st_size
    if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > _FREE_BYTES + _MOST_EXPANSION * size:
        raise CheckpointError(f"{path} has {size} bytes and unpacks to more than any saved model; do not use this file.")
    for member in members:
        if member.filename not in (_CONFIG, _WEIGHTS, "metadata.json") and not member.filename.startswith("assets/"):
            raise CheckpointError(f"{path} holds {member.filename[:80]!r}, which Keras does not write; save the model again.")
        if ".." in Path(member.filename).parts or "\\" in member.filename or member.external_attr >> 28 == 0xA:
            raise CheckpointError(f"{path} holds {member.filename[:80]!r}, which leads outside the archive; do not use this file.")
        if member.filename == _CONFIG and member.file_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has a configuration of {member.file_size} bytes, larger than any model's; do not use this file.")


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    if len(data) > _MAX_JSON_BYTES or data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_JSON_VALUES:
        raise CheckpointError(f"{path} has a configuration larger than any model's; do not use this file.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a configuration that is no JSON ({first_line(error)}); save the model again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no Keras configuration; save the model again.")
    return found


def _check_weights(data: BinaryIO, size: int, path: Path) -> Stored:
    """HDF5 files can also point into other files, and say shapes that nothing was stored of. What there is."""
    import h5py

    try:
        with h5py.File(data, "r") as file:
            total = count = 0
            for name, dataset in _datasets(file, path):
                total += dataset.nbytes
                count += 1
                _check_dataset(name, dataset, total > _FREE_BYTES + _MOST_EXPANSION * size, path)
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises many kinds for damaged files
        raise CheckpointError(
            f"{path} cannot be loaded by Keras, for its weights are damaged ({first_line(error)}); save it again."
        ) from error
    return Stored(count, total)


def _check_dataset(name: str, dataset: Any, large: bool, path: Path) -> None:
    if dataset.is_virtual or dataset.external is not None or large:
        raise CheckpointError(f"{path} says of {name[:120]} that it lies elsewhere or is larger than the file; do not use it.")
    if not _is_finite(dataset):
        raise CheckpointError(f"{path} holds a weight that is NaN or infinite, in {name[:120]}; train or save the model again.")


def _is_finite(dataset: Any) -> bool:
    if dataset.attrs.get("dtype") == "bfloat16":
        import ml_dtypes

        return bool(np.isfinite(np.array(dataset, ml_dtypes.bfloat16).astype(np.float32)).all())
    return dataset.dtype.kind != "f" or bool(np.isfinite(dataset[()]).all())


def _datasets(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    import h5py

    todo = [("", file)]
    while todo:
        at, group = todo.pop()
        if at.count("/") > _DEEPEST:  # a group may hold itself
            raise CheckpointError(f"{path} holds weights deeper than {_DEEPEST} groups; do not use this file.")
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise CheckpointError(f"{path} holds the link {at}/{key[:120]}, and Keras writes none; do not use this file.")
            item = group[key]
            if isinstance(item, h5py.Group):
                todo.append((f"{at}/{key}", item))
            else:
                yield f"{at}/{key}", item
