"""Print the size on disk of some distributions with all that they depend on: ``installed_size.py llmasos ...``."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(names: list[str]) -> dict[str, metadata.Distribution]:
    """The named distributions and their installed dependencies, by canonical name."""
    found: dict[str, metadata.Distribution] = {}
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


def size(distribution: metadata.Distribution) -> int:
    """Bytes of the files that the distribution installed, and of what Python compiled of them."""
    paths = {Path(str(file.locate())) for file in distribution.files or []}
    paths |= {Path(cache_from_source(str(path))) for path in paths if path.suffix == ".py"}
    return sum(path.stat().st_size for path in paths if path.exists())


if __name__ == "__main__":
    sizes = {name: size(distribution) for name, distribution in closure(sys.argv[1:]).items()}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    print(
        f"Installed: {sum(sizes.values()) / 1e6:.0f} MB in {len(sizes)} packages (largest: "
        + ", ".join(f"{name} {count / 1e6:.0f} MB" for name, count in largest)
        + ")."
    )
