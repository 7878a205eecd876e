"""The verb ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def doctor(
        model: Annotated[str | None, typer.Argument(help="A model to compare with a slow reference; left out: the machine.")] = None,
        loader: Annotated[str | None, typer.Option("--loader", help="The loader to check the model on.")] = None,
        config: o.ConfigOption = None,
        overrides: o.SetOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> int:
        """Look at the hardware, the versions and every plugin; or compare a model with a slow reference."""
        if model is None:
            return _machine(context, as_json=as_json)
        return _model(context, model, loader, config, overrides or (), as_json=as_json, quiet=quiet)

    return verb("doctor", doctor)


def _machine(context: CommandContext, *, as_json: bool) -> int:
    """1 where a plugin does not work."""
    from llmasos_devtools.doctor.diagnosis import diagnose

    found = diagnose(context)
    if as_json:
        context.answer(found, as_json=True)
    else:
        for section in ("hardware", "versions", "folders"):
            lines = [f"{section}:", *(f"  {key}: {value}" for key, value in found[section].items())]
            context.answer(None, "\n".join(lines))
        rows = [[p["kind"], p["name"], p["distribution"], "works" if p["works"] else p["problem"]] for p in found["plugins"]]
        context.table(["kind", "name", "distribution", "state"], rows)
        for sentence in found["missing"]:
            context.answer(None, sentence)
    return 1 if any(not plugin["works"] for plugin in found["plugins"]) else 0


def _model(
    context: CommandContext,
    model: str,
    loader: str | None,
    config: Path | None,
    settings: Sequence[str],
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """1 where a text came out different."""
    from llmasos_devtools.doctor.self_check import check_model

    with context.model(model, loader=loader, config=config, settings=settings, quiet=quiet) as loaded:
        found = check_model(loaded, loaded.checkpoint)
        notes = loaded.notes
    rows: list[dict[str, Any]] = [attrs.asdict(each) | {"verdict": each.verdict} for each in found.comparisons]
    if as_json:
        context.answer(attrs.asdict(found) | {"comparisons": rows, "passed": found.passed, "notes": list(notes)}, as_json=True)
    else:
        context.answer(None, f"{model} on {found.loader} in {found.dtype}, against {found.reference}:")
        context.table(
            ["text", "error", "KL", "same token", "verdict"],
            [[each.what, f"{each.error:.2g}", f"{each.mean_kl:.2g}", f"{each.top1:.1%}", each.verdict] for each in found.comparisons],
        )
        context.answer(None, f"The {found.loader}: {found.loader_choice}")
        for note in notes:
            if note != found.loader_choice:
                context.answer(None, note)
    return 0 if found.passed else 1
