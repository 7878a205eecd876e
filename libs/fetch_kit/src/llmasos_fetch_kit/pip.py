"""The command line of pip.

By default Python puts the working folder and ``PYTHONPATH`` on a child's import path: a file ``attrs.py`` that came with a model would
run.
"""

from __future__ import annotations

import site
import sys


def pip_command(*arguments: str) -> list[str]:
    """``python -m pip`` for the pip that is installed beside this interpreter, isolated from the working folder and ``PYTHONPATH``."""
    # pip has to see the user's own site, which -I hides, where that is where it installs.
    flags = ["-E", "-P"] if site.ENABLE_USER_SITE else ["-I"]
    return [sys.executable, *flags, "-m", "pip", *arguments]
