"""Running here, where it is watched, what core runs apart. It imports no reader: a child that reads nothing of ours starts sooner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmasos.system import context
from llmasos_hookspecs import apart
from llmasos_hookspecs.testing import sandbox
from llmasos_tokenizing import first_sight


@contextmanager
def probed_here() -> Iterator[None]:
    """What core runs in a child process runs in this one, where it is watched; nothing that was tried is remembered."""

    def here(function: str, *arguments: Any, **_: Any) -> Any:
        return apart.result(apart.answer(apart.named(function), arguments))

    places: tuple[tuple[Any, str, Any], ...] = (
        (first_sight, "Remembered", lambda *_, **__: set()),
        (apart, "Remembered", lambda *_, **__: set()),
        (apart, "_passed", set()),
        (context, "run_apart", here),
        (sandbox, "run_child", lambda function, arguments, _: here(function, *arguments)),
    )
    kept = [getattr(module, name) for module, name, _ in places]
    try:
        for module, name, other in places:
            setattr(module, name, other)
        yield
    finally:
        for (module, name, _), own in zip(places, kept, strict=True):
            setattr(module, name, own)
