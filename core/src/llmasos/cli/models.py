"""``llmasos models``: the model store and the aliases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llmasos.cli import options as o
from llmasos.cli.console import TerminalSink, in_bytes, print_json, print_note, print_result, print_table
from llmasos.cli.installed import Group
from llmasos.system.catalog import reference_forms

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint

app = typer.Typer(help="Fetched models and short names for them.", cls=Group, no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help=f"An alias, a path, {reference_forms()}.", autocompletion=o.known_models)]


@app.command("list")
def list_models(config: o.ConfigOption = None, as_json: o.JsonOption = False) -> None:
    """List the models in the store with what uses each, and the aliases."""
    from llmasos.system.aliases import Aliases
    from llmasos.system.config import load_config
    from llmasos.system.store import Store
    from llmasos.system.uses import used_by

    store, aliases = Store(), Aliases()
    configured = load_config(config)
    models = [_described(entry, aliases) | {"used_by": list(used_by(entry, aliases, configured))} for entry in store.models()]
    names: list[dict[str, Any]] = [
        {"name": alias.name, "target": alias.target, "builtin": alias.builtin}
        for alias in sorted(aliases.all().values(), key=lambda a: a.name)
    ]
    if as_json:
        print_json({"models": models, "aliases": names, "unfinished": dict(store.unfinished())})
        return
    if models:
        print_table(
            ["model", "size", "licence", "used by", "digest"],
            [
                [each["key"], in_bytes(each["size"]), each["license"] or "?", ", ".join(each["used_by"]) or "-", each["digest"][:12]]
                for each in models
            ],
        )
    else:
        print_note("No model is fetched yet; llmasos models pull smollm2 fetches one.")
    print_result()
    print_table(["alias", "stands for"], [[each["name"], each["target"]] for each in names])
    for name, size in store.unfinished().items():
        print_note(f"Unfinished: {name} ({in_bytes(size)}); pulling it again goes on from there.")


@app.command("pull")
def pull(
    reference: Reference,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network.")] = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Fetch a model into the store."""
    from llmasos.system.sources import resolve

    found = resolve(reference, offline=offline, sink=TerminalSink(quiet=quiet))
    for warning in found.warnings:
        print_note(warning)
    if as_json:
        print_json({"reference": reference, "canonical": found.canonical, "path": str(found.path)})
    else:
        print_result(str(found.path))


@app.command("show")
def show(reference: Reference, as_json: o.JsonOption = False) -> None:
    """Show what a model is: files, digests, licence, architecture."""
    from llmasos.compose.formats import open_model
    from llmasos.system.aliases import Aliases
    from llmasos.system.sources import resolve
    from llmasos.system.store import Store

    found = resolve(reference, sink=TerminalSink())
    entry = Store().get(found.canonical)
    checkpoint = open_model(found.path)
    facts: dict[str, Any] = {} if entry is None else _described(entry, Aliases())
    facts |= {"reference": reference, "canonical": found.canonical, "path": str(checkpoint.path), "format": checkpoint.format}
    facts |= {"checkpoint_digest": checkpoint.digest, "config": dict(checkpoint.config), "tensors": len(checkpoint.names())}
    facts |= _runs_on(checkpoint)
    if checkpoint.manifest:
        facts["manifest"] = dict(checkpoint.manifest)
    if as_json:
        print_json(facts)
        return
    files = facts.pop("files", {})
    config = facts.pop("config")
    for key, value in facts.items():
        print_result(f"{key}: {value}")
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        print_result(f"{key}: {config.get(key)}")
    for name, file in files.items():
        print_result(f"file {name}: {in_bytes(file['size'])}, sha256 {file['sha256']}")


def _runs_on(checkpoint: Checkpoint) -> dict[str, Any]:
    """The loader that ``auto`` takes for a checkpoint, and why it passed over those that are preferred to it."""
    from llmasos.system.bounds import Bounds
    from llmasos.system.config import ComponentConfig
    from llmasos.system.discovery import registry
    from llmasos.system.loader_choice import choose_loader, installed_loaders
    from llmasos_hookspecs import LLMasOSError

    try:
        chosen = choose_loader(installed_loaders(registry()), checkpoint, ComponentConfig(use="auto"), Bounds().load)
    except LLMasOSError as error:
        return {"loader": None, "no_loader": str(error)}
    return {"loader": chosen.loader.entry.name, **({"passed_over": list(chosen.passed_over)} if chosen.passed_over else {})}


class _ExportCommand(TyperCommand):
    """A command whose help ends with what the installed formats write."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from llmasos.compose.formats import formats
        from llmasos.system.options import describe

        self.epilog = "\n\n".join(
            f"--{loaded.entry.name} {option.key.upper()}: {option.help}"
            for loaded in formats().exporters()
            for option in describe(loaded.component.exports or object)[:1]
        )
        super().format_help(ctx, formatter)


@app.command("export", cls=_ExportCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def export(
    context: typer.Context,
    reference: Reference,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Write a model in the format that --NAME VALUE says; without it as one GGUF file, for llama.cpp and what is built on it."""
    from llmasos.api.exporting import export as export_model

    formats: dict[str, Any] = dict([_format(context.args)]) if context.args else {}
    exported = export_model(reference, output, force=force, progress=TerminalSink(quiet=quiet), **formats)
    if as_json:
        print_json(
            {
                "path": str(exported.path),
                "size": exported.size,
                "format": exported.format,
                "facts": dict(exported.facts),
                "notes": list(exported.notes),
            }
        )
        return
    for note in [] if quiet else exported.notes:
        print_note(note)
    print_result(f"{exported.path}  {in_bytes(exported.size)}")


def _format(arguments: list[str]) -> tuple[str, str]:
    """The format that ``--NAME VALUE`` means, and its value."""
    from llmasos.system.catalog import published
    from llmasos.system.discovery import registry
    from llmasos_hookspecs import RequestError
    from llmasos_hookspecs.nearest import did_you_mean

    name, equals, value = arguments[0].partition("=")
    rest = arguments[1:]
    if not equals and rest:
        value, *rest = rest
    known = {entry.name for entry in registry().entries("format")} | set(published()["format"])  # an error names the package to install
    if not name.startswith("--") or name[2:] not in known:
        raise RequestError(f"No such option: {arguments[0]}{did_you_mean(name, {f'--{each}' for each in known} | {'--output'})}")
    if not value or rest:
        raise RequestError(f"{name} takes one value, as in {name} VALUE, and {' '.join(arguments)!r} stands there.")
    return name[2:], value


@app.command("remove")
def remove(reference: Reference, as_json: o.JsonOption = False) -> None:
    """Remove a model from the store."""
    from llmasos.system.aliases import Aliases
    from llmasos.system.store import Store

    freed = Store().remove(Aliases().expand(reference).reference)
    if as_json:
        print_json({"removed": reference, "freed": freed})
    else:
        print_result(f"Removed {reference}; {in_bytes(freed)} are free again.")


@app.command("clean")
def clean(
    keep: Annotated[
        str | None, typer.Option("--keep", help="How much of the accelerators' results to keep, the ones used last: 5GiB; none by default.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Remove results of accelerator stages that no process uses, and what killed processes left of fetches."""
    from llmasos.acceleration.cache import StageCache
    from llmasos.system.folders import cache_folder
    from llmasos.system.store import Store
    from llmasos_hookspecs.sizes import parse_size

    limit = 0 if keep is None else parse_size(keep)
    freed = StageCache(cache_folder() / "acceleration" / "stages").trim(limit) + Store().clean()
    if as_json:
        print_json({"freed": freed})
    else:
        print_result(f"{in_bytes(freed)} are free again.")


@app.command("alias")
def alias(
    name: Annotated[str, typer.Argument(help="The short name.")],
    target: Annotated[str | None, typer.Argument(help="What it stands for; left out with --remove.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Give a model a short name, or take it away."""
    from llmasos.system.aliases import Aliases
    from llmasos_hookspecs import RequestError

    if remove == (target is not None):
        raise RequestError("Give what the alias stands for, or --remove, and not both.")
    if target is None:
        Aliases().remove(name)
    else:
        Aliases().set(name, target)
    if as_json:
        print_json({"alias": name, "target": target})


@app.command("verify")
def verify(
    reference: Annotated[str | None, typer.Argument(help="A model, of the store or at a path; left out: all of the store.")] = None,
    as_json: o.JsonOption = False,
) -> int:
    """Read every stored file and compare it with its digest; of a model at a path read every tensor, and what its format can check."""
    from llmasos.system.aliases import Aliases
    from llmasos.system.store import Store

    if reference is not None and Path(reference).exists():
        problems = _problems(Path(reference))
    else:
        problems = list(Store().verify(None if reference is None else Aliases().expand(reference).reference))
    if as_json:
        print_json({"problems": problems})
    for problem in [] if as_json else problems:
        print_result(problem)
    return 1 if problems else 0


def _problems(path: Path) -> list[str]:
    """What is wrong with the model at a path: the first problem, or nothing."""
    from llmasos.compose.formats import open_model
    from llmasos_hookspecs import CheckpointError
    from llmasos_huggingface_folder.finite import check_all

    try:
        checkpoint = open_model(path)
        getattr(checkpoint, "verify", lambda: None)()
        check_all(checkpoint)
        checkpoint.text_files()
    except CheckpointError as error:
        return [str(error)]
    return []


def _described(entry: Any, aliases: Any) -> dict[str, Any]:
    return {
        "key": entry.key,
        "size": entry.size,
        "license": entry.license_id,
        "digest": entry.digest,
        "source": entry.source,
        "added": entry.added,
        "aliases": list(aliases.names_for(entry.key)),
        "path": str(entry.path),
        "files": {name: {"size": file.size, "sha256": file.sha256} for name, file in entry.files.items()},
    }
