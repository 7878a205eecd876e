"""Exports results to a folder of the user: checkpoint, manifest with figures, report as JSON and, where a suite draws it, as a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from llmasos.acceleration.report import AccelerationReport
from llmasos_hookspecs import AccelerationError, CheckpointError
from llmasos_hookspecs.plain_json import dump_json, finite
from llmasos_huggingface_folder.manifest import file_records, read_manifest, verify_digest, write_manifest
from llmasos_huggingface_folder.writer import remove_stale
from llmasos_model_store.digests import file_digest

REPORT: Final = "report.json"
PAGE: Final = "report.html"


def check_output(output: Path | None) -> list[str]:
    """Why nothing can be written there, found before any work is done."""
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        return [f"{output} exists already; name another folder for the output, or remove it."]
    return []


def export(model: Path, output: Path, report: AccelerationReport, page: str | None = None) -> None:
    """Copy a finished checkpoint to ``output``, which appears by a rename, whole."""
    with appearing(output) as partial, _damage(model):
        shutil.copytree(model, partial, dirs_exist_ok=True)
        manifest = read_manifest(partial)
        # The copy gets a new manifest, so its files are verified first: a file damaged before or while copying must not get a new digest.
        for name, record in file_records(partial, manifest).items():
            verify_digest(partial, name, record, file_digest)
        stages = _with_figures(manifest["stages"], report)
        write_manifest(partial, base=manifest["base"], stages=stages, files=list(manifest["files"]), digest_of=file_digest)
        # The report's path is relative, because users move folders; the report lies in the folder that it describes.
        (partial / REPORT).write_text(dump_json({**report.to_dict(), "path": "."}, indent=2) + "\n", encoding="utf-8")
        if page is not None:
            (partial / PAGE).write_text(page, encoding="utf-8")


@contextlib.contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``output`` at the end, or nothing."""
    partial = output.parent / f".{output.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(output)
        partial.mkdir()
        yield partial
        if output.is_dir():
            output.rmdir()
        partial.rename(output)
    except OSError as error:
        raise AccelerationError(f"{output} could not be written ({error.strerror or error}); nothing of it was kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _damage(model: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise AccelerationError(
            f"The result in {model} is damaged and was not exported; run again, which makes it anew ({error})"
        ) from error


def _with_figures(stages: list[dict[str, Any]], report: AccelerationReport) -> list[dict[str, Any]]:
    """The manifest's stages, those of this run with their figures."""
    before = stages[: len(stages) - len(report.stages)]
    figures = report.to_dict()["stages"]
    own = [
        {**stage, "seconds": found["seconds"], "coverage": found["coverage"], "measured": finite(found["measurement"])}
        for stage, found in zip(stages[len(before) :], figures, strict=True)
    ]
    return [*before, *own]
