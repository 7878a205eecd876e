"""Whether a plugin is built for the contract that is installed here, and what its user reads where it is not.

A plugin says so in its requirement of the contract's distribution; ``Component.api`` says it for one that is not installed by pip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from llmasos.system.requirements import installed_version
from llmasos_hookspecs import API_VERSION, Component

#: The distribution of ``llmasos_hookspecs``.
CONTRACT: Final = "llmasos-hookspecs"


def contract_fault(requires: Iterable[str], distribution: str, *, version_of: Callable[[str], str | None] = installed_version) -> str:
    """The rest of a sentence that begins with the plugin, where its requirement of the contract is unmet; else empty.

    Args:
        requires: the requirements of the plugin's distribution, as in its metadata; those that cannot be parsed are passed over.
        distribution: its name.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requires:
        # Parsing costs more than reading the name, and most requirements are of something else.
        if not text.lower().replace("_", "-").startswith(CONTRACT):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        version = version_of(CONTRACT)
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if version and here and not requirement.specifier.contains(version, prereleases=True):
            newer = any(_above(each.operator, each.version, version) for each in requirement.specifier)
            return _other_contract(newer, f"it requires {CONTRACT}{requirement.specifier}", f"{CONTRACT} {version}", distribution)
    return ""


def api_fault(component: Component, distribution: str) -> str:
    """The same for a component that names a version of the contract."""
    if component.api == API_VERSION:
        return ""
    return _other_contract(
        component.api > API_VERSION, f"version {component.api} of the plugin contract", f"version {API_VERSION}", distribution
    )


def _above(operator: str, wanted: str, version: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return operator in (">=", ">", "~=", "==") and Version(wanted.removesuffix(".*")) > Version(version)
    except InvalidVersion:
        return False


def _other_contract(newer: bool, wanted: str, present: str, distribution: str) -> str:
    if newer:
        return f"is built for a newer LLMasOS ({wanted}), and this one has {present}; pip install --upgrade llmasos."
    return (
        f"is built for an older LLMasOS ({wanted}), and this one has {present}; pip install --upgrade {distribution}, or, where that "
        "brings no other version, ask its author for one: the page docs/compatibility.md of LLMasOS tells authors what to change."
    )
