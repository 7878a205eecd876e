"""The verbs ``models sign`` and ``check-signature``: signatures beside a model, as OpenSSF `model-signing` reads and writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from llmasos_command_kit.options import JsonOption, QuietOption
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError
from llmasos_seal.openssf import read_private_key, read_public_key, sign as sign_files, verify
from llmasos_seal.progress import bytes_done

Model = Annotated[Path, typer.Argument(help="The folder or the file of a model.")]
Signature = Annotated[
    Path | None, typer.Option("--signature", help="The signature's file; left out: model.sig in the folder, or FILE.sig beside a file.")
]


def sign(context: CommandContext) -> Command:
    """``models sign``."""

    def run(
        model: Model,
        key: Annotated[Path, typer.Option("--key", help="An ECDSA key in PEM, which keygen --openssf made.")],
        signature: Signature = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> int:
        """Sign all files of a model, in the format of OpenSSF model-signing."""
        private, output = read_private_key(key), _place(model, signature)
        with bytes_done(context, "Signing", _files(model), quiet=quiet) as advance:
            files = sign_files(model, output, private, advance)
        context.answer({"signature": str(output), "files": files}, str(output), as_json=as_json)
        return 0

    return verb("sign", run)


def check_signature(context: CommandContext) -> Command:
    """``models check-signature``."""

    def run(
        model: Model,
        key: Annotated[Path, typer.Option("--key", help="The public ECDSA key of the signer, in PEM.")],
        signature: Signature = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> int:
        """Check that a model is what somebody signed, in the format of OpenSSF model-signing."""
        public, given = read_public_key(key), _place(model, signature)
        with bytes_done(context, "Checking", _files(model), quiet=quiet) as advance:
            files = verify(model, given, public, advance)
        answer = f"{model} is what the key signed: {files} file{'s' if files > 1 else ''}."
        context.answer({"signature": str(given), "files": files}, answer, as_json=as_json)
        return 0

    return verb("check-signature", run)


def _place(model: Path, signature: Path | None) -> Path:
    """Where the signature is. Raises ``RequestError`` where there is no model."""
    if not model.exists():
        raise RequestError(f"{model} is no file and no folder; name the folder or the file of a model.")
    return signature or (model / "model.sig" if model.is_dir() else model.with_name(f"{model.name}.sig"))


def _files(model: Path) -> Iterator[Path]:
    return (path for path in (model.rglob("*") if model.is_dir() else [model]) if path.is_file())
