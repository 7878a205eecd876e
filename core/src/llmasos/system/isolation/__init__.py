"""Child interpreters: how they are started, and functions of core that process untrusted bytes in a child with resource limits."""

from llmasos.system.isolation.apart import ApartError, Limits, run_apart
from llmasos.system.isolation.children import code_command, module_command

__all__ = ["ApartError", "Limits", "code_command", "module_command", "run_apart"]
