"""Which of the faults that are planted in components each change tries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest


def one_for_each_check(faults: Mapping[str, Any], caught_by: Callable[[Any], str | Collection[str]]) -> list[Any]:
    """Names of faults as parameters: those that a check of the kit catches which caught none before them, and as `long` the others, which
    show that the same check catches more.

    Args:
        caught_by: the check or checks that catch a fault.
    """
    seen: set[str] = set()
    found = []
    for name, fault in faults.items():
        checks = caught_by(fault)
        news = {checks} if isinstance(checks, str) else {*checks}
        found.append(pytest.param(name, marks=[pytest.mark.long] * (news <= seen)))
        seen |= news
    return found
