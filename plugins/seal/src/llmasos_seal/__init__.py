"""LLMasOS format ``seal``: encrypted and signed models, decrypted in memory as they are read."""

from __future__ import annotations

from pathlib import Path

import attrs

from llmasos_hookspecs import Checkpoint, Component, Context, hookimpl

#: The file that makes a folder a sealed model.
HEADER = "llmasos.seal"


@attrs.frozen(kw_only=True)
class Options:
    """How sealed models are opened."""

    identity: str | None = attrs.field(
        default=None,
        metadata={
            "help": "What opens them: a file with an age identity or an SSH key, keyring:NAME, or passphrase:FILE; left out: what the "
            "environment variable LLMASOS_IDENTITY says."
        },
    )


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Encrypted and signed models, decrypted in memory as they are read.", options=Options, files=(HEADER,))


@hookimpl
def llmasos_open(path: Path, options: Options, context: Context) -> Checkpoint | None:
    if not (path / HEADER).is_file():
        return None
    from llmasos_seal.checkpoint import open_sealed

    return open_sealed(path, options.identity, context)
