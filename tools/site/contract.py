"""Reference of the public names of the contract and of its conformance kit, as directives of mkdocstrings."""

from __future__ import annotations

import importlib
import inspect

import llmasos_hookspecs
from llmasos_hookspecs import testing


def modules() -> dict[str, list[str]]:
    """The modules that define the contract's public names -> those names."""
    found: dict[str, list[str]] = {}
    for module, names in llmasos_hookspecs._MODULES.items():
        found[f"llmasos_hookspecs.{module}"] = names.split()
    return found


def contract_page(module: str, names: list[str]) -> str:
    """The page of one module: its first sentence, and each public name."""
    summary = (inspect.getdoc(importlib.import_module(module)) or "").partition("\n")[0]
    lines = [f"# {module.rpartition('.')[2].capitalize()}", "", summary, "", "Import these names from `llmasos_hookspecs`.", ""]
    for name in names:
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def hooks_page() -> str:
    """The page of the hook specifications."""
    return "# Hooks\n\nA plugin's module implements the hooks of its kind, marked by `hookimpl`.\n\n::: llmasos_hookspecs.specs\n"


def kit_page() -> str:
    """The page of the conformance kit."""
    lines = [
        "# Conformance kit",
        "",
        "Import these names from `llmasos_hookspecs.testing`; the extra `[testing]` brings what they need.",
        "",
    ]
    for name in testing.__all__:
        lines += [f"::: llmasos_hookspecs.testing.{name}", ""]
    return "\n".join(lines)
