"""LLMasOS format ``gguf``: the files of llama.cpp, read and written."""

from __future__ import annotations

from pathlib import Path

import attrs

from llmasos_hookspecs import Checkpoint, CheckpointError, Component, Context, Exported, hookimpl

#: Words for the types that matrices can be written in.
WORDS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_0", "q5_1", "q4_0", "q4_1", "q4_k")

_LISTED = f"{', '.join(WORDS[:-1])} or {WORDS[-1]}"
_MAGIC = b"GGUF"


def _lower(word: str) -> str:
    return word.lower()


def _known(instance: object, attribute: object, word: str) -> None:
    if word not in WORDS:
        raise ValueError(f"there is no GGUF type {word[:40]!r} to write; those that are: {', '.join(WORDS)}")


@attrs.frozen(kw_only=True)
class ExportOptions:
    """Options of ``llmasos models export --gguf``."""

    type: str = attrs.field(
        default="q8_0",
        converter=_lower,
        validator=_known,
        metadata={"help": f"The type of the matrices: {_LISTED}."},
    )


@hookimpl
def llmasos_component() -> Component:
    # The second is how stores of GGUF files name them that go by digest.
    return Component(summary="The files of llama.cpp, read and written.", files=("*.gguf", "sha256-*"), exports=ExportOptions)


@hookimpl
def llmasos_open(path: Path, context: Context) -> Checkpoint | None:
    file = path
    if path.is_dir():
        from llmasos_checkpoint_kit.folder import inside
        from llmasos_format_gguf.split import first_parts

        models = first_parts(path)
        if len(models) > 1:
            raise CheckpointError(f"{path} holds {len(models)} GGUF models; name one of them, such as {models[0].name}.")
        if not models:
            return None
        file = inside(path, models[0].name)
    if file.suffix.lower() != ".gguf":
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) != _MAGIC:
                return None
    from llmasos_format_gguf.checkpoint import GGUFCheckpoint

    return GGUFCheckpoint(file, context.file_digest)


@hookimpl
def llmasos_export(checkpoint: Checkpoint, output: Path, options: ExportOptions, context: Context) -> Exported:
    from llmasos_format_gguf.write import write_gguf

    written = write_gguf(checkpoint, output, options.type, progress=lambda total: context.progress(f"Writing {output.name}", total, "B"))
    facts = {"type": written.type, "architecture": written.architecture, "tensors": dict(written.tensors), "tokenizer": written.tokenizer}
    return Exported(facts=facts, notes=written.notes)
