"""The parts of a split GGUF model, found beside the one that is named and read as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs
from gguf.constants import Keys

from llmasos_checkpoint_kit.folder import inside
from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.header import GGUFHeader, read_header
from llmasos_hookspecs import CheckpointError

_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def part_paths(path: Path) -> list[Path]:
    """All parts of the model that ``path`` is a part of, in order; ``path`` alone where its name is no part's.

    Raises:
        CheckpointError: a part is missing, or leads out of the folder.
    """
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    stem, number, count = found[1], int(found[2]), int(found[3])
    if not 1 <= number <= count:
        raise CheckpointError(f"{path} is by its name part {number} of {count}, which cannot be; give it its own name back.")
    paths = []
    for index in range(1, count + 1):
        part = inside(path.parent, f"{stem}-{index:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise CheckpointError(f"{path.parent} lacks {part.name}, part {index} of {count} of a split model; get all parts.")
        paths.append(part)
    return paths


def first_parts(folder: Path) -> list[Path]:
    """The GGUF models of a folder, one path each: whole files, and the part that stands first of each split model."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.gguf")):
        split = _PART.fullmatch(path.name)
        found.setdefault(path.name if split is None else f"{split[1]} of {split[3]}", inside(folder, path.name))
    return list(found.values())


def read_parts(path: Path) -> tuple[GGUFHeader, list[Path]]:
    """The header of a GGUF model and the files that it lies in; metadata is the first part's.

    Raises:
        CheckpointError: a part is missing, damaged, or another model's, or two hold a tensor of one name.
        UnsupportedModel: see ``read_header``.
    """
    paths = part_paths(path)
    headers = []
    for index, part in enumerate(paths):
        header = read_header(part)
        _check_place(header, index, len(paths))
        headers.append(header)
    if len(headers) == 1:
        return headers[0], paths
    tensors = tuple(attrs.evolve(tensor, part=index) for index, header in enumerate(headers) for tensor in header.tensors)
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise CheckpointError(f"{paths[tensor.part]} holds {tensor.name[:80]!r}, which another part holds too; get all parts again.")
        seen.add(tensor.name)
    total = meta.single(headers[0], Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if total is not None and total != len(tensors):
        raise CheckpointError(
            f"{paths[0]} announces {str(total)[:20]} tensors in all its parts, which hold {len(tensors)}; get them again."
        )
    files = tuple(header.files[0] for header in headers)
    return GGUFHeader(paths[0], files, headers[0].metadata, tensors), paths


def _check_place(header: GGUFHeader, index: int, count: int) -> None:
    """Hold what a part says of its place against its name."""
    told_count = header.metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT, 1)
    told = header.metadata.get(Keys.Split.LLM_KV_SPLIT_NO, 0)
    if not isinstance(told_count, int) or not isinstance(told, int):
        raise CheckpointError(f"{header.path} has no whole numbers in its metadata split.no and split.count; get it again.")
    if told_count in (0, 1) and count == 1:
        return
    if told_count != count or told != index:
        if count == 1:
            raise CheckpointError(
                f"{header.path} is one of {str(told_count)[:20]} parts of a split model, and its name does not say which; "
                "give the parts their names back, such as model-00001-of-00002.gguf."
            )
        place = f"part {str(told)[:20]} of {str(told_count)[:20]}, counted from 0"
        raise CheckpointError(f"{header.path} says that it is {place}, and its name says {index} of {count}; get all parts again.")
