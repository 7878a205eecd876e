"""``llmasos models``: the model store and the aliases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llmasos.cli import options as o
from llmasos.cli.console import TerminalSink, in_bytes, print_json, print_note, print_result, print_table
from llmasos.cli.installed import Group
from llmasos_command_kit.completion import names_of
from llmasos_config.catalog import reference_forms
from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.nearest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmasos.acceleration.cache import StageCache, StageEntry
    from llmasos_hookspecs import Checkpoint
    from llmasos_model_store.builds import Build
    from llmasos_model_store.store import StoredModel

app = typer.Typer(help="Fetched models and short names for them.", cls=Group, no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help=f"An alias, a preset, a path, {reference_forms()}.", autocompletion=names_of("model"))]


@app.command("list")
def list_models(config: o.ConfigOption = None, as_json: o.JsonOption = False) -> None:
    """List the models in the store with what was made of each and what uses it, the aliases, and the presets."""
    from llmasos.system.uses import used_by
    from llmasos_config import load_config
    from llmasos_config.aliases import Aliases
    from llmasos_config.presets import Presets
    from llmasos_model_store.builds import Builds
    from llmasos_model_store.store import Store

    store, aliases = Store(), Aliases()
    configured = load_config(config)
    builds, stages = Builds().all(), _stages().entries()
    models = [
        {**_described(entry, aliases), "used_by": list(used_by(entry, aliases, configured)), **_made(entry, builds, stages)}
        for entry in store.models()
    ]
    made = {"builds": sum(each.size for each in builds), "stages": sum(each.size for each in stages)}
    names: list[dict[str, Any]] = [
        {"name": alias.name, "target": alias.target, "builtin": alias.builtin}
        for alias in sorted(aliases.all().values(), key=lambda a: a.name)
    ]
    presets = [{"name": name, "made_from": _made_from(name)} for name in Presets().names()]
    if as_json:
        print_json({"models": models, "aliases": names, "presets": presets, "unfinished": dict(store.unfinished()), "made": made})
        return
    if models:
        print_table(
            ["model", "size", "built engines", "stages", "licence", "used by", "digest"],
            [
                [
                    each["key"],
                    *(in_bytes(each[size]) for size in ("size", "built_size", "stages_size")),
                    each["license"] or "?",
                    ", ".join(each["used_by"]) or "-",
                    each["digest"][:12],
                ]
                for each in models
            ],
        )
    else:
        print_note("No model is fetched yet; llmasos models pull smollm2 fetches one.")
    print_result()
    print_table(["alias", "stands for"], [[each["name"], each["target"]] for each in names])
    if presets:
        print_result()
        print_table(["preset", "made from"], [[each["name"], each["made_from"]] for each in presets])
    if any(made.values()):
        print_note(
            f"Built engines of all models take {in_bytes(made['builds'])}, stages {in_bytes(made['stages'])}; models clean removes them."
        )
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
def show(
    reference: Reference,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print a preset as the TOML file that models create --file takes.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Show what a model is: files, digests, licence, architecture; of a preset, what it sets."""
    from llmasos_config import to_toml
    from llmasos_config.presets import Presets

    preset = Presets().get(reference)
    if preset is not None:
        if as_json:
            print_json({"name": preset.name, "path": str(preset.path), **preset.tables})
        else:
            print_result(("" if as_toml else f"# {preset.path}\n") + to_toml(preset.tables).rstrip("\n"))
        return
    if as_toml:
        raise RequestError(f'"{reference}" is no preset, and only presets are TOML{did_you_mean(reference, Presets().names())}')
    from llmasos.compose.formats import open_model
    from llmasos.system.sources import resolve
    from llmasos_config.aliases import Aliases
    from llmasos_model_store.store import Store

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
    from llmasos.compose.loader_timing import TIMINGS, KeptTimings
    from llmasos.system.bounds import Bounds
    from llmasos.system.discovery import registry
    from llmasos.system.loader_choice import choose_loader, installed_loaders
    from llmasos_config import ComponentConfig
    from llmasos_model_store.folders import cache_folder

    loaders = installed_loaders(registry())
    try:
        chosen = choose_loader(loaders, checkpoint, ComponentConfig(use="auto"), Bounds().load)
    except LLMasOSError as error:
        return {"loader": None, "no_loader": str(error)}
    facts: dict[str, Any] = {"loader": chosen.loader.entry.name}
    timings = KeptTimings(cache_folder() / TIMINGS).find(checkpoint, loaders)
    if timings is not None:
        facts |= {"tuned_loader": timings.ordered(loaders)[0].entry.name, "timings": timings.sentence}
    return facts | ({"passed_over": list(chosen.passed_over)} if chosen.passed_over else {})


class _ExportCommand(TyperCommand):
    """A command whose help ends with what the installed formats write."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from llmasos.compose.formats import formats
        from llmasos_options import describe

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
    from llmasos.system.discovery import registry
    from llmasos_config.catalog import published

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
    """Remove a model from the store with all that was made of it, engines and stages; or a preset."""
    from llmasos_config.aliases import Aliases
    from llmasos_config.presets import Presets
    from llmasos_model_store.store import Store

    presets, store = Presets(), Store()
    if presets.get(reference) is not None:
        freed = presets.remove(reference)
    else:
        key = Aliases().expand(reference).reference
        entry = store.get(key)
        freed = (0 if entry is None else _remove_made(entry)) + store.remove(key)
    if as_json:
        print_json({"removed": reference, "freed": freed})
    else:
        print_result(f"Removed {reference}; {in_bytes(freed)} are free again.")


@app.command("clean")
def clean(
    keep: Annotated[
        str | None, typer.Option("--keep", help="How much to keep of engines, and of stages, those used last: 5GiB; nothing by default.")
    ] = None,
    days: Annotated[float, typer.Option("--days", min=0, help="Keep what was used in the last so many days.")] = 0.0,
    as_json: o.JsonOption = False,
) -> None:
    """Remove what can be made again and no process uses: engines that loaders built, results of accelerator stages, and what killed
    processes left of fetches."""
    from llmasos_hookspecs.sizes import parse_size
    from llmasos_model_store.builds import Builds
    from llmasos_model_store.store import Store

    limit, older = 0 if keep is None else parse_size(keep), days * 86400
    freed = {
        "stages": _stages().trim(limit, older=older),
        "builds": Builds().trim(limit, older=older, fresh=0.0),
        "fetches": Store().clean(),
    }
    if as_json:
        print_json({"freed": sum(freed.values()), **freed})
    else:
        print_result(f"{in_bytes(sum(freed.values()))} are free again.")


@app.command("alias")
def alias(
    name: Annotated[str, typer.Argument(help="The short name.")],
    target: Annotated[str | None, typer.Argument(help="What it stands for; left out with --remove.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Give a model a short name, or take it away."""
    from llmasos_config.aliases import Aliases

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
    from llmasos_config.aliases import Aliases
    from llmasos_model_store.store import Store

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


def _stages() -> StageCache:
    from llmasos.acceleration.cache import StageCache
    from llmasos_model_store.folders import cache_folder

    return StageCache(cache_folder() / "acceleration" / "stages")


def _made(entry: StoredModel, builds: Sequence[Build], stages: Sequence[StageEntry]) -> dict[str, int]:
    """How many engines and stages were made of a stored model, and their bytes. The model is opened only where there are stages."""
    base = _digest(entry.key) if stages else ""
    own = [stage for stage in stages if base and stage.base == base]
    places = [entry.path, *(stage.path for stage in own)]
    built = [build for build in builds if any(build.of(place) for place in places)]
    return {
        "built": len(built),
        "built_size": sum(build.size for build in built),
        "stages": len(own),
        "stages_size": sum(stage.size for stage in own),
    }


def _remove_made(entry: StoredModel) -> int:
    """Remove the engines and stages that were made of a stored model; returns the bytes freed."""
    from llmasos_model_store.builds import Builds

    stages, builds = _stages(), Builds()
    entries = stages.entries()
    base = _digest(entry.key) if entries else ""
    freed = sum(builds.remove(each.path) for each in entries if base and each.base == base) + builds.remove(entry.path)
    return freed + (stages.remove(base) if base else 0)


def _digest(key: str) -> str:
    """The digest of a stored checkpoint; empty where it cannot be read."""
    from llmasos.compose.formats import open_model
    from llmasos.system.sources import resolve

    try:
        return open_model(resolve(key, offline=True).path).digest
    except LLMasOSError:
        return ""


def _made_from(name: str) -> str:
    """What a preset is made from, or what is wrong with it."""
    from llmasos_config.presets import Presets
    from llmasos_hookspecs import ConfigError

    try:
        preset = Presets().get(name)
    except ConfigError as error:
        return str(error)
    return "" if preset is None else str(preset.tables.get("model", {}).get("source", ""))


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
