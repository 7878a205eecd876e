"""The verb ``models create``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmasos_app_text.presets.modelfile import read_modelfile
from llmasos_hookspecs import Command, CommandContext, RequestError


def make(context: CommandContext) -> Command:
    """The verb with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command("create")
    def create(
        name: Annotated[str, typer.Argument(help="What to call the preset; it stands wherever a model does.")],
        source: Annotated[str | None, typer.Option("--from", help="The model that it is made from: any reference, or a preset.")] = None,
        file: Annotated[
            Path | None, typer.Option("--file", "-f", help="A preset's TOML file, or a Modelfile of Ollama's; other options hold over it.")
        ] = None,
        system: Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")] = None,
        message: Annotated[
            list[str] | None, typer.Option("--message", help="ROLE:TEXT, an example before every chat; may be given several times.")
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option("--set", help="An option of generations, temperature=0.2, or a value of config, loader.threads=2."),
        ] = None,
        template: Annotated[Path | None, typer.Option("--template", help="A file with a jinja2 chat template.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace the preset if it exists.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    ) -> None:
        """Make a preset: a model with a system message, examples and options of your own, kept as one TOML file."""
        if source is None and file is None:
            raise RequestError("Say what the preset is made from: --from MODEL, or --file with a preset's TOML file or a Modelfile.")
        tables: dict[str, Any] = {} if file is None else _from_file(context, file, own_template=template is not None)
        given: dict[str, Any] = {
            "source": source,
            "system": system,
            "messages": [_message(each) for each in message] if message else None,
            "chat_template": None if template is None else _text(template),
        }
        model = {**tables.get("model", {}), **{key: value for key, value in given.items() if value is not None}}
        tables = {**tables, "model": model}
        for each in settings or ():
            _set(tables, each)
        path = context.save_preset(name, tables, replace=force)
        context.answer({"name": name, "path": str(path), **tables}, f'Made {name}; llmasos run {name} "..." uses it.', as_json=as_json)

    return typer.main.get_command(app)


def _from_file(context: CommandContext, file: Path, *, own_template: bool) -> dict[str, Any]:
    text = _text(file)
    if file.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{file} is no TOML: {error or 'it is nested too deeply'}.") from error
    found = read_modelfile(text, file.parent, own_template=own_template)
    for note in found.notes:
        context.note(note)
    return dict(found.tables)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read as text: {getattr(error, 'strerror', None) or error}.") from error


def _message(words: str) -> dict[str, str]:
    role, colon, content = words.partition(":")
    if role not in ("user", "assistant") or not colon or not content.strip():
        raise RequestError(f"--message is {words!r}, and it must be user:TEXT or assistant:TEXT.")
    return {"role": role, "content": content.strip()}


def _set(tables: dict[str, Any], setting: str) -> None:
    """Set a value that ``path=value`` names: a path of one name is an option of generations."""
    path, equals, text = setting.partition("=")
    steps: Sequence[str] = path.strip().split(".")
    if not equals or not all(steps):
        raise RequestError(f"--set is {setting!r}, and it must have the form name=value, such as temperature=0.2 or loader.threads=2.")
    if len(steps) == 1:
        steps = ("model", "sampling", *steps)
    holder = tables
    for step in steps[:-1]:
        inner = holder.get(step, {})
        if isinstance(inner, str) and holder is tables:  # a component by its name alone
            inner = {"use": inner}
        if not isinstance(inner, dict):
            raise RequestError(f"--set {setting} goes into {step}, which is no table.")
        holder[step] = dict(inner)
        holder = holder[step]
    try:
        found = tomllib.loads(f"value = {text.strip()}")
    except ValueError:
        found = {}
    holder[steps[-1]] = found["value"] if list(found) == ["value"] else text.strip()
