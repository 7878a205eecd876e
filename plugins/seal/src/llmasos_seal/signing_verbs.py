"""The verbs ``models sign`` and ``check-signature``: signatures beside a model, as OpenSSF `model-signing` reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llmasos_hookspecs import Command, CommandContext, RequestError
from llmasos_seal.openssf import read_private_key, read_public_key, sign as sign_files, verify

Model = Annotated[Path, typer.Argument(help="The folder or the file of a model.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
Signature = Annotated[
    Path | None, typer.Option("--signature", help="The signature's file; left out: model.sig in the folder, or FILE.sig beside a file.")
]


def sign(context: CommandContext) -> Command:
    """``models sign``."""
    app = _app()

    @app.command("sign")
    def run(
        model: Model,
        key: Annotated[Path, typer.Option("--key", help="An ECDSA key in PEM, which keygen --openssf made.")],
        signature: Signature = None,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> int:
        """Sign all files of a model, in the format of OpenSSF model-signing."""
        private, output = read_private_key(key), _place(model, signature)
        with _progress(context, "Signing", model, quiet) as advance:
            files = sign_files(model, output, private, advance)
        context.answer({"signature": str(output), "files": files}, str(output), as_json=as_json)
        return 0

    return typer.main.get_command(app)


def check_signature(context: CommandContext) -> Command:
    """``models check-signature``."""
    app = _app()

    @app.command("check-signature")
    def run(
        model: Model,
        key: Annotated[Path, typer.Option("--key", help="The public ECDSA key in PEM of who signed it.")],
        signature: Signature = None,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> int:
        """Check that a model is what somebody signed, in the format of OpenSSF model-signing."""
        public, given = read_public_key(key), _place(model, signature)
        with _progress(context, "Checking", model, quiet) as advance:
            files = verify(model, given, public, advance)
        answer = f"{model} is what the key signed: {files} file{'s' if files > 1 else ''}."
        context.answer({"signature": str(given), "files": files}, answer, as_json=as_json)
        return 0

    return typer.main.get_command(app)


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _place(model: Path, signature: Path | None) -> Path:
    """Where the signature is. Raises ``RequestError`` where there is no model."""
    if not model.exists():
        raise RequestError(f"{model} is no file and no folder; name the folder or the file of a model.")
    return signature or (model / "model.sig" if model.is_dir() else model.with_name(f"{model.name}.sig"))


@contextmanager
def _progress(context: CommandContext, label: str, model: Path, quiet: bool) -> Iterator[Callable[[int], None]]:
    if quiet:
        yield lambda _: None
        return
    size = sum(path.stat().st_size for path in (model.rglob("*") if model.is_dir() else [model]) if path.is_file())
    with context.progress(label, size, "B") as shown:
        yield shown.advance
