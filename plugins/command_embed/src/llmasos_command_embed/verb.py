"""The verb ``embed``: its options, and what it says when it is done."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import attrs
import typer

from llmasos_command_embed.run import How, run_embed
from llmasos_command_embed.texts import read_texts
from llmasos_hookspecs import Command, CommandContext


def make(context: CommandContext) -> Command:
    """The verb with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command("embed")
    def embed(
        texts: Annotated[Path, typer.Argument(help="A .txt file with a text a line, or a .jsonl or .csv file.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The .npy or .jsonl file; a run that was stopped goes on.")],
        field: Annotated[str, typer.Option("--field", help="Which field of a row is the text.")] = "text",
        kind: Annotated[Literal["passage", "query"], typer.Option("--kind", help="What the texts are.")] = "passage",
        dimensions: Annotated[int | None, typer.Option("--dimensions", min=1, help="Keep so many numbers of each vector.")] = None,
        truncate: Annotated[bool, typer.Option("--truncate", help="Leave out the end of texts that are too long.")] = False,
        raw: Annotated[bool, typer.Option("--raw", help="Leave vectors at the length that the model gives.")] = False,
        model: Annotated[str | None, typer.Option("--model", "-m", help="A model of the config by name, or any model reference.")] = None,
        config: Annotated[
            Path | None,
            typer.Option("--config", "-c", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own."),
        ] = None,
        settings: Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as seed=7.")] = None,
        loader: Annotated[str | None, typer.Option("--loader", help="A loader by name; short for --set loader.use=...")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")] = False,
    ) -> int:
        """Embed the texts of a file as vectors."""
        total = sum(1 for _ in read_texts(texts, field))  # a file that cannot be read is told before a model is fetched
        how = How(reference="", kind=kind, normalize=not raw, dimensions=dimensions, truncate=truncate)
        with (
            context.model(model, loader=loader, config=config, settings=settings or (), quiet=quiet) as opened,
            contextlib.ExitStack() as shown,
        ):
            bar = None if quiet else shown.enter_context(context.progress(f"Embedding {texts.name}", total, "texts"))
            how = attrs.evolve(how, reference=opened.checkpoint.digest)
            advance = (lambda _: None) if bar is None else bar.advance
            report = run_embed(opened, read_texts(texts, field), output, how, progress=advance)
        if as_json:
            context.answer({**attrs.asdict(report), "path": str(report.path)}, as_json=True)
        elif not quiet:
            known = f", {report.skipped} were there already" if report.skipped else ""
            refused = f", {report.errors} were refused" if report.errors else ""
            context.note(f"{report.done} texts in {report.seconds:.1f} s{known}{refused}; see {report.path}.")
        return 1 if report.errors else 0

    return typer.main.get_command(app)
