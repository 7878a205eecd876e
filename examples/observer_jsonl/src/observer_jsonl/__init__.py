"""An observer that writes one JSON line for each finished request."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import Component, RequestRecord, hookimpl


@attrs.frozen
class Options:
    """Where the lines go."""

    path: str = attrs.field(default="llmasos-requests.jsonl", metadata={"help": "The file that lines are appended to."})


def line(record: RequestRecord, *, now: float, wall: float) -> dict[str, Any]:
    """The record with durations in seconds; ``now`` and ``wall`` are the same moment on the monotonic clock and the calendar's."""
    facts = attrs.asdict(record)
    queued, started, first, finished = (facts.pop(key) for key in ("queued", "started", "first_token", "finished"))
    return {
        "queued_at": datetime.datetime.fromtimestamp(wall - (now - queued), datetime.UTC).isoformat(timespec="milliseconds"),
        "wait_s": None if started is None else round(started - queued, 6),
        "ttft_s": None if first is None else round(first - queued, 6),
        "total_s": round(finished - queued, 6),
        **facts,
    }


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Writes one JSON line for each finished request to a file.", options=Options)


@hookimpl
def llmasos_request_finished(record: RequestRecord, options: Options) -> None:
    text = json.dumps(line(record, now=time.monotonic(), wall=time.time()), ensure_ascii=False)
    with Path(options.path).open("ab", buffering=0) as file:  # one write to a file opened for appending stays whole
        file.write(text.encode() + b"\n")
