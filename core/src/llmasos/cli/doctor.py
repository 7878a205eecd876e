"""``llmasos doctor``: what this machine is, what is installed, what is missing and how to get it."""

from __future__ import annotations

from typing import Any

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_result, print_table


def doctor(as_json: o.JsonOption = False) -> int:
    """Look at the hardware, the versions and every plugin, each tried in a process of its own."""
    from llmasos.system.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 1 if any(not plugin["works"] for plugin in found["plugins"]) else 0


def _print(found: dict[str, Any]) -> None:
    for section in ("hardware", "versions", "folders"):
        print_result(f"{section}:")
        for key, value in found[section].items():
            print_result(f"  {key}: {value}")
    rows = [[p["kind"], p["name"], p["distribution"], "works" if p["works"] else p["problem"]] for p in found["plugins"]]
    print_table(["kind", "name", "distribution", "state"], rows)
    for sentence in found["missing"]:
        print_result(sentence)
