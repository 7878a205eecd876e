"""Threads on which observers are told."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from llmasos_plugin_calls import observer
from llmasos_plugin_calls.observer import Observer


class Plugin:
    """Notes what it is told, and on which thread; the threads are kept, so that no two have one identity."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.threads: list[threading.Thread] = []
        self.told = threading.Semaphore(0)

    def __call__(self, hook: str, **arguments: Any) -> None:
        self.heard.append(hook)
        self.threads.append(threading.current_thread())
        self.told.release()


def test_one_thread_for_events_that_come_one_after_another() -> None:
    """Starting a thread for each would take the time of what tells of them."""
    plugin = Plugin()
    told = Observer("plugin", plugin)
    for number in range(5):
        told.tell(f"event {number}")
        assert plugin.told.acquire(timeout=30)
        time.sleep(0.01)  # the queue is empty by now
    assert plugin.heard == [f"event {number}" for number in range(5)]
    assert len(set(plugin.threads)) == 1
    assert told.finish(30)
    assert not plugin.threads[0].is_alive()


def test_what_comes_after_the_end_is_delivered() -> None:
    plugin = Plugin()
    told = Observer("plugin", plugin)
    assert told.finish(30)
    for _ in range(2):
        told.tell("late")
        assert plugin.told.acquire(timeout=30)
        assert told.finish(30)
    assert plugin.heard == ["late", "late"]
    assert not any(thread.is_alive() for thread in plugin.threads)


def test_the_thread_ends_where_nothing_more_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "_STAYS", 0.05)
    plugin = Plugin()
    told = Observer("plugin", plugin)
    for _ in range(2):
        told.tell("event")
        assert plugin.told.acquire(timeout=30)
        plugin.threads[-1].join(30)
        assert not plugin.threads[-1].is_alive()
    assert len(set(plugin.threads)) == 2
