"""Finds the model among fetched files: a folder, or a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from llmasos_hookspecs import SourceError
from llmasos_hookspecs.nearest import listed

#: What a Hugging Face folder may hold that a loader or tokenizer reads. No code, no pickle.
MODEL_SUFFIXES: Final = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken")

#: By this file a folder is one of sentence-transformers, whose modules have numbered folders of their own: ``1_Pooling``.
MODULES: Final = "modules.json"
_MODULE: Final = re.compile(r"\d+_\w+$", re.ASCII)

#: A large GGUF comes in numbered parts, of which the first leads to the others.
_PART: Final = "-of-"


def model_in(folder: Path) -> Path:
    """The model in a folder: the folder itself where it is one, its only GGUF file, or the only folder inside it.

    Raises:
        SourceError: it holds several models, so that one has to be named, or one that is a link out of it.
    """
    while True:
        if (folder / "config.json").is_file():
            return folder
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
        weights = sorted(path for path in files if path.suffix.lower() == ".gguf")
        heads = [path for path in weights if _PART not in path.stem or "-00001-of-" in path.stem]
        if len(heads) == 1:
            _check_link(folder, heads[0])
            return heads[0]
        if len(heads) > 1:
            raise SourceError(f"{folder} holds several models ({listed(path.name for path in heads)}); name one of the files.")
        if len(files) != 1 or not files[0].is_dir() or files[0].is_symlink():
            # Whatever it is (an exported decoder, a SavedModel), its loader knows it by its files.
            return folder
        folder = files[0]


def _check_link(folder: Path, path: Path) -> None:
    """Refuse a link out of the folder, which can point to any file of the machine; links of a Hugging Face cache to its own blobs are
    followed."""
    real, root = path.resolve(), folder.resolve()
    cached = root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    if not real.is_relative_to(root) and not cached:
        raise SourceError(f"{path} is a link that leads outside its folder; name the file itself if you trust it.")


def model_files(names: Iterable[str]) -> list[str]:
    """The names, among all files of a package or a repository, that make up its model: its GGUF files, else the Hugging Face folder
    nearest to the root, with the modules of sentence-transformers below it. Empty where there is none."""
    known = sorted(names)
    weights = [name for name in known if name.lower().endswith(".gguf")]
    if weights:
        return weights
    roots = [PurePosixPath(name).parent for name in known if PurePosixPath(name).name == "config.json"]
    homes = [root for root in roots if any(PurePosixPath(name).parent == root and name.endswith(".safetensors") for name in known)]
    if not homes:
        return []
    home = min(homes, key=lambda root: (len(root.parts), root))
    places = {home}
    if str(home / MODULES) in known:
        places |= {parent for name in known if (parent := PurePosixPath(name).parent).parent == home and _MODULE.match(parent.name)}
    return [name for name in known if PurePosixPath(name).parent in places and name.lower().endswith(MODEL_SUFFIXES)]
