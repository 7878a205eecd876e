"""The verbs ``models keygen``, ``seal``, ``unseal`` and ``rekey``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from llmasos_checkpoint_kit.folder import inside
from llmasos_command_kit.options import JsonOption, QuietOption
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    Checkpoint,
    CheckpointError,
    Command,
    CommandContext,
    RequestError,
    is_sealed,
    virtual_folder,
)
from llmasos_hookspecs.atomic import write_atomically
from llmasos_seal import HEADER
from llmasos_seal.age import KEYRING, Recipients, keep_in_keyring, new_identity
from llmasos_seal.layout import CHUNK
from llmasos_seal.openssf import new_key
from llmasos_seal.progress import bytes_done
from llmasos_seal.reading import SealedFiles
from llmasos_seal.signing import new_signing_key, read_signing_key
from llmasos_seal.writing import rewrap, seal as seal_files

_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")

To = Annotated[
    list[str] | None,
    typer.Option(
        "--to", help="Who can open it: a public key (age1..., ssh-...), a file of such keys, or passphrase:FILE. May be repeated."
    ),
]
Sign = Annotated[Path | None, typer.Option("--sign", help="Sign with this key, which keygen --signing made.")]
Identity = Annotated[
    str | None,
    typer.Option("--identity", "-i", help="What opens it: a file, keyring:NAME, or passphrase:FILE; left out: LLMASOS_IDENTITY."),
]
Sealed = Annotated[Path, typer.Argument(help="The folder of a sealed model.")]


def keygen(context: CommandContext) -> Command:
    """``models keygen``."""

    def run(
        file: Annotated[str, typer.Argument(help="The file to write, readable by you alone; or keyring:NAME.")],
        signing: Annotated[
            bool, typer.Option("--signing", help="Make a key that signs models, in the place of one that opens them.")
        ] = False,
        openssf: Annotated[
            bool, typer.Option("--openssf", help="Make an ECDSA key for models sign, and FILE.pub beside it for models check-signature.")
        ] = False,
        as_json: JsonOption = False,
    ) -> int:
        """Make an age identity, which opens models that are sealed to its public key; or a key that signs models."""
        if openssf:
            if signing or file.startswith(KEYRING):
                raise RequestError("--openssf makes a file and FILE.pub; leave --signing out, and name a file.")
            text, public = new_key()
            _write_secret(Path(file), text)
            write_atomically(Path(f"{file}.pub"), public)
            context.answer({"file": file, "public_key": f"{file}.pub"}, f"{file}.pub", as_json=as_json)
            return 0
        text, public = new_signing_key() if signing else new_identity()
        if file.startswith(KEYRING):
            if signing:
                raise RequestError("The keyring keeps identities, and --sign reads a file; name a file for a key that signs.")
            keep_in_keyring(file.removeprefix(KEYRING), text)
        else:
            _write_secret(Path(file), text)
        context.answer({"file": file, "public_key": public}, public, as_json=as_json)
        return 0

    return verb("keygen", run)


def seal(context: CommandContext) -> Command:
    """``models seal``."""

    def run(
        model: Annotated[str, typer.Argument(help="A folder, a file, or any other model reference.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
        to: To = None,
        sign: Sign = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> int:
        """Encrypt a model: a new folder, which runs like any other for those who hold a key."""
        recipients = Recipients.of(to or ())
        signing = None if sign is None else read_signing_key(sign)
        if Path(model).exists():
            sources = _sources(context.load_checkpoint(Path(model)))
        else:
            with context.model(model, quiet=quiet) as opened:
                sources = _sources(opened.checkpoint)
        with context.new_folder(output) as folder, bytes_done(context, "Sealing", sources.values(), quiet=quiet) as advance:
            header = seal_files(sources, folder, recipients, signing, advance)
        context.answer({"path": str(output), "files": len(sources), "signer": header.signer}, str(output), as_json=as_json)
        return 0

    return verb("seal", run)


def unseal(context: CommandContext) -> Command:
    """``models unseal``."""

    def run(
        sealed: Sealed,
        output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
        identity: Identity = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> int:
        """Write the files of a sealed model in the clear, each checked."""
        files = _open(sealed, identity)
        sources = _virtual(files)
        with context.new_folder(output) as folder, bytes_done(context, "Unsealing", sources.values(), quiet=quiet) as advance:
            for name, source in sources.items():
                target = inside(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as opened, target.open("xb") as out:
                    while chunk := opened.read(CHUNK):
                        out.write(chunk)
                        advance(len(chunk))
        context.answer({"path": str(output), "files": len(sources), "signer": files.header.signer}, str(output), as_json=as_json)
        return 0

    return verb("unseal", run)


def rekey(context: CommandContext) -> Command:
    """``models rekey``."""

    def run(
        sealed: Sealed,
        to: To = None,
        identity: Identity = None,
        full: Annotated[bool, typer.Option("--full", help="Encrypt all files anew, against those who kept the old key.")] = False,
        sign: Sign = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> int:
        """Let those whom --to names open a sealed model, and nobody else. Its files stay as they are, unless --full is given."""
        if sign is not None and not full:
            raise RequestError("--sign signs what is encrypted anew; give --full with it, or leave it out: the signature stays valid.")
        recipients = Recipients.of(to or ())
        files = _open(sealed, identity)
        if full and sign is None and files.header.signer is not None:
            raise RequestError(f"{sealed} is signed by {files.header.signer}, and its files change; sign them again with --sign KEY.")
        if full:
            sources = _virtual(files)
            signing = None if sign is None else read_signing_key(sign)
            with bytes_done(context, "Encrypting", sources.values(), quiet=quiet) as advance:
                header = seal_files(sources, sealed, recipients, signing, advance)
        else:
            header = files.header
            rewrap(sealed, header, files.key, recipients)
        context.answer({"path": str(sealed), "full": full, "signer": header.signer}, str(sealed), as_json=as_json)
        return 0

    return verb("rekey", run)


def _open(folder: Path, identity: str | None) -> SealedFiles:
    if not (folder / HEADER).is_file():
        raise RequestError(f"{folder} is no sealed model: it holds no {HEADER}; llmasos models seal makes one.")
    return SealedFiles(folder, identity)


def _virtual(files: SealedFiles) -> Mapping[str, Path]:
    folder = virtual_folder(files.folder, files)
    return {name: folder / name for name in files.sizes}


def _sources(checkpoint: Checkpoint) -> dict[str, Path]:
    """Name -> file, of all that a model consists of. Raises ``RequestError`` or ``CheckpointError``."""
    path = checkpoint.path
    if is_sealed(checkpoint):
        raise RequestError(f"{path} is sealed already; llmasos models rekey changes who can open it.")
    if checkpoint.format not in NEUTRAL_FORMATS:
        raise RequestError(
            f"{path} is a {checkpoint.format} export, which loaders read from plain files only; seal the model that it is of."
        )
    if path.is_file():
        part = _PART.fullmatch(path.name)
        if part is None:
            return {path.name: path}
        every = sorted(path.parent.glob("*.gguf"))
        return {each.name: inside(path.parent, each.name) for each in every if _same_model(each.name, part)}
    found = {}
    for each in sorted(path.rglob("*")):
        name = each.relative_to(path)
        if each.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = inside(path, name.as_posix())
    return found


def _same_model(name: str, part: re.Match[str]) -> bool:
    other = _PART.fullmatch(name)
    return other is not None and other.groups() == part.groups()


def _write_secret(path: Path, text: str) -> None:
    """Write a new file that the user alone can read. Raises ``RequestError`` where one is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RequestError(f"{path} exists already, and a key is never replaced; name another file.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror or error}); name another file.") from error
