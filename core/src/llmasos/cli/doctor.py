"""``llmasos doctor``: what this machine is, what is installed, what is missing and how to get it; and whether a model is computed right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_result, print_table


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model to hold against a slow reference; left out: the machine.", autocompletion=o.known_models)
    ] = None,
    loader: Annotated[
        str | None, typer.Option("--loader", help="The loader to check the model on.", autocompletion=o.installed("loader"))
    ] = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> int:
    """Look at the hardware, the versions and every plugin; or hold a model against a slow reference."""
    if model is not None:
        return _check(model, loader, config, overrides, as_json=as_json, quiet=quiet)
    from llmasos.system.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 1 if any(not plugin["works"] for plugin in found["plugins"]) else 0


def _check(model: str, loader: str | None, config: Path | None, overrides: list[str] | None, *, as_json: bool, quiet: bool) -> int:
    """1 where a text came out different."""
    from llmasos.evaluation.self_check import check_model

    pipeline, loaded = o.open_pipeline(config, overrides, model=model, loader=loader, quiet=quiet)
    with pipeline:
        pipeline.load(loaded.name)
        found = check_model(loaded, loaded.checkpoint)
        notes = loaded.notes
    if as_json:
        rows = [attrs.asdict(each) | {"verdict": each.verdict} for each in found.comparisons]
        print_json(attrs.asdict(found) | {"comparisons": rows, "passed": found.passed, "notes": list(notes)})
    else:
        print_result(f"{model} on {found.loader} in {found.dtype}, against {found.reference}:")
        print_table(
            ["text", "error", "KL", "same token", "verdict"],
            [[each.what, f"{each.error:.2g}", f"{each.mean_kl:.2g}", f"{each.top1:.1%}", each.verdict] for each in found.comparisons],
        )
        for note in notes:
            print_result(note)
    return 0 if found.passed else 1


def _print(found: dict[str, Any]) -> None:
    for section in ("hardware", "versions", "folders"):
        print_result(f"{section}:")
        for key, value in found[section].items():
            print_result(f"  {key}: {value}")
    rows = [[p["kind"], p["name"], p["distribution"], "works" if p["works"] else p["problem"]] for p in found["plugins"]]
    print_table(["kind", "name", "distribution", "state"], rows)
    for sentence in found["missing"]:
        print_result(sentence)
