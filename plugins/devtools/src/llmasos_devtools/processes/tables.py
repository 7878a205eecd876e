"""What processes say of themselves (``CommandContext.processes``), as rows of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs.sizes import size_in_words

COLUMNS: Final = (
    *("pid", "model", "source", "loader", "scheduler", "state", "running", "waiting", "weights", "kv", "kv %", "hits", "prefill/s"),
    *("decode/s", "done", "where"),
)
#: Characters of a model's source in a table; ``--json`` has all of it.
_SOURCE_WIDTH: Final = 40
OBSERVER_COLUMNS: Final = ("pid", "observer", "waiting", "dropped")


def memory_line(process: Mapping[str, Any]) -> str:
    """How much memory the models of a process take."""
    memory = process["memory"]
    of = "" if memory["limit"] is None else f" of {size_in_words(memory['limit'])}"
    waiting = f", {memory['waiting']} wait for memory" if memory["waiting"] else ""
    held = f"{size_in_words(memory['weights'])} weights and {size_in_words(memory['kv'])} KV"
    return f"{process['pid']}: {size_in_words(memory['used'])}{of} in use, {held}{waiting}"


def rows(processes: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """A row of ``COLUMNS`` for each model."""
    for process in processes:
        for name, model in process["models"].items():
            used, cached, capacity = (model.get(key, 0) for key in ("kv_used", "kv_cached", "kv_capacity"))
            yield [
                str(process["pid"]),
                name,
                _short(model.get("source", "")),  # a process of an older version tells neither
                _named(model.get("loader", "")),
                model.get("scheduler", ""),
                model["state"],
                str(model.get("running", 0)),
                str(model.get("waiting", 0)),
                size_in_words(model["weight_bytes"]),
                size_in_words(model["kv_bytes"]),
                f"{(used + cached) / capacity if capacity else 0.0:.0%}",
                str(model.get("cache_hits", 0)),
                f"{model.get('prefill_rate', 0.0):.0f}",
                f"{model.get('decode_rate', 0.0):.0f}",
                str(model.get("finished", 0)),
                "; ".join(each["where"] for each in model.get("replicas", ())),
            ]


def _short(source: str) -> str:
    """The end of a long source, which tells models apart: the file or folder with the folder above it, or the name in a repository."""
    return source if len(source) <= _SOURCE_WIDTH else "…" + source[-(_SOURCE_WIDTH - 1) :]


def _named(label: str) -> str:
    """The component's name in a label such as ``loader "onnx" (llmasos-backend-onnx 0.1.0)``."""
    _, quoted, rest = label.partition('"')
    return rest.partition('"')[0] if quoted else label


def observer_rows(processes: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """A row of ``OBSERVER_COLUMNS`` for each observer."""
    for process in processes:
        for observer in process.get("observers", ()):  # a process of an older version tells none
            yield [str(process["pid"]), observer["observer"], str(observer["waiting"]), str(observer["dropped"])]
