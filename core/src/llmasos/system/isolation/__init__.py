"""Child interpreters: how each is started, and functions of ours that run on untrusted bytes in one that is held within limits."""

from llmasos.system.isolation.apart import ApartError, Limits, run_apart
from llmasos.system.isolation.children import code_command, module_command

__all__ = ["ApartError", "Limits", "code_command", "module_command", "run_apart"]
