"""Pipelines that nobody closed: once none of their users is left, their models are closed."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Sequence

from llmasos.compose.host import ModelHost
from llmasos.compose.process import ProcessResources
from llmasos.compose.status import process_status


def close_when_dropped(pipeline: object, hosts: Sequence[ModelHost], process: ProcessResources) -> weakref.finalize[..., object]:
    """Close ``hosts`` some time after ``pipeline`` is gone, each when its last request has ended. To be detached where somebody closes it.

    Python may find that an object is gone anywhere, also where the thread holds a lock that closing needs: hence a thread of its own. In a
    forked child nothing is closed, because engines and replicas are the parent's.
    """
    finalizer = weakref.finalize(pipeline, _begin, tuple(hosts), process, os.getpid())
    finalizer.atexit = False
    return finalizer


def _begin(hosts: Sequence[ModelHost], process: ProcessResources, pid: int) -> None:
    if os.getpid() == pid:
        threading.Thread(target=_close, args=(hosts, process), name="llmasos-dropped", daemon=True).start()


def _close(hosts: Sequence[ModelHost], process: ProcessResources) -> None:
    for host in hosts:
        process.residency.changes.wait_for(functools.partial(_is_idle, host))
        host.close()
        process_status().close(host)  # its thread ends where no pipeline is left


def _is_idle(host: ModelHost) -> bool:
    return not host.busy
