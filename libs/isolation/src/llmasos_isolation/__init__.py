"""Child interpreters: how they are started, and functions that process untrusted bytes in a child with resource limits."""

from llmasos_isolation.apart import run_apart
from llmasos_isolation.children import code_command

__all__ = ["code_command", "run_apart"]
