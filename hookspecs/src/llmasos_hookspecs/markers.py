"""The pluggy project name and its two markers."""

from __future__ import annotations

from typing import Final

from pluggy import HookimplMarker, HookspecMarker

PROJECT: Final = "llmasos"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)
