"""Where models come from: each module is a source component; ``resolve`` finds the one that a reference belongs to."""

from llmasos.system.sources.resolution import ResolvedModel, resolve

__all__ = ["ResolvedModel", "resolve"]
