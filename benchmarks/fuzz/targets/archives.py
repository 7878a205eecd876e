"""Archives that models come in: zip files and wheels, and tapes of three kinds."""

from __future__ import annotations

import io
import shutil
import zipfile

from benchmarks.fuzz.mutation import parted, tar_file, tar_of, zip_file
from benchmarks.fuzz.target import Room, Target
from llmasos_fetch_kit.archives import unpack

_FILES = {"model/config.json": b'{"model_type": "llama"}', "model/tokenizer.json": b"{}" * 40, "model/README.md": b"read me"}
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".whl")


def archive(room: Room) -> Target:
    """Unpacked into an empty folder; the first byte says the ending of the archive's name."""
    out = room.scratch / "out"
    chosen = [_SUFFIXES[0]]

    def read() -> None:
        unpack(room.folder / f"model{chosen[0]}", out)

    def prepare(data: bytes) -> None:
        chosen[0] = _SUFFIXES[data[0] % len(_SUFFIXES)] if data else _SUFFIXES[0]
        (room.folder / f"model{chosen[0]}").write_bytes(data[1:])
        out.mkdir()

    return Target(
        name="archive",
        seeds=[
            b"\0" + _zip(zipfile.ZIP_DEFLATED),
            b"\1" + tar_of(_FILES, "w:"),
            b"\2" + tar_of(_FILES, "w:gz"),
            b"\3" + _zip(zipfile.ZIP_STORED),
        ],
        prepare=prepare,
        read=read,
        clear=lambda: shutil.rmtree(out),
        room=room,
        mutate=parted(zip_file({}, zipfile.ZIP_DEFLATED), tar_file, tar_file, zip_file({})),
    )


def _zip(compression: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as bundle:
        for name, content in _FILES.items():
            bundle.writestr(name, content)
    return out.getvalue()
