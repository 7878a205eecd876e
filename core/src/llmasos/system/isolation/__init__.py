"""Child interpreters: how they are started, and functions that process untrusted bytes in a child with resource limits."""

from llmasos.system.isolation.apart import run_apart
from llmasos.system.isolation.children import code_command, module_command

__all__ = ["code_command", "module_command", "run_apart"]
