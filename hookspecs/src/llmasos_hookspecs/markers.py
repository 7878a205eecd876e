"""The pluggy project name and its two markers."""

from __future__ import annotations

from typing import Final

from pluggy import HookimplMarker, HookspecMarker

#: The name under which pluggy knows the hooks of LLMasOS.
PROJECT: Final = "llmasos"

#: Marks a hook specification; core and the contract have them.
hookspec = HookspecMarker(PROJECT)
#: Marks a function of a plugin as the implementation of the hook of its name.
hookimpl = HookimplMarker(PROJECT)
