"""Command lines of child interpreters. No other module of core or of its libs builds one, but for pip's (``llmasos_fetch_kit.pip``).

By default Python puts the working folder and ``PYTHONPATH`` on a child's import path: a file ``attrs.py`` that came with a model would
run. Children of core are isolated from both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def code_command(code: str, *arguments: str, first: Iterable[os.PathLike[str] | str] = ()) -> list[str]:
    """``python -c CODE``. It finds modules where this process does, relative places aside, and in the folders ``first`` before them."""
    path = [*(os.path.abspath(place) for place in first), *search_path()]
    return [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {path!r}\n{code}", *arguments]


def search_path() -> list[str]:
    """Where this process finds modules, without the working folder, however it is spelt."""
    here = os.path.realpath(os.curdir)
    return [place for place in sys.path if os.path.isabs(place) and os.path.realpath(place) != here]
