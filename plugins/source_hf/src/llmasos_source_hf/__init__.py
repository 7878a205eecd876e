"""The source of models on the Hugging Face Hub, or on the server that ``HF_ENDPOINT`` names.

huggingface_hub handles names, revisions, access tokens and sessions. The files are downloaded here, because its own downloads start again
after a killed process, and because every file is checked against the digest that the Hub announces for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_fetch_kit.archives import safe_path
from llmasos_fetch_kit.keeping import keep_fetched
from llmasos_fetch_kit.layout import model_files, model_in
from llmasos_hookspecs import WORKING, Component, Context, Progress, SourceError, hookimpl
from llmasos_hookspecs.nearest import did_you_mean, listed
from llmasos_hookspecs.sizes import size_in_words

_REFERENCE: Final = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+))?",
)
#: What arrived is kept chunk by chunk, so a kill loses one at most.
_CHUNK: Final = 1 << 17
#: Seconds without a byte after which a connection counts as broken.
_TIMEOUT: Final = 30.0
#: Broken connections in a row, without a byte between them, before giving up.
_TRIES: Final = 4


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="A model on the Hugging Face Hub.",
        schemes=("hf",),
        examples=("llmasos models pull hf:org/name", "llmasos models pull hf:org/name@revision:file.gguf"),
    )


@attrs.frozen
class _Repository:
    name: str
    revision: str
    file: str

    @property
    def key(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{self.name}{revision}{f':{self.file}' if self.file else ''}"


@attrs.frozen
class _RemoteFile:
    """A file as the Hub announces it: bytes, the digest of its content (SHA-256 where it is large, git's own else)."""

    name: str
    size: int
    sha256: str | None
    git_blob: str

    @property
    def partial(self) -> str:
        """A name for its unfinished download that no other content has."""
        return f"{WORKING}-{hashlib.sha256(f'{self.name} {self.size} {self.sha256} {self.git_blob}'.encode()).hexdigest()[:32]}"


@hookimpl
def llmasos_fetch(ref: str, context: Context) -> Path | None:
    if not ref.startswith("hf:"):
        return None
    match = _REFERENCE.fullmatch(ref)
    if match is None:
        raise SourceError(f'"{ref}" must have the form hf:org/name, hf:org/name@revision or hf:org/name@revision:file.gguf.')
    wanted = _Repository(match["repo"], match["revision"] or "main", match["file"] or "")
    return model_in(keep_fetched(context, wanted.key, lambda folder: _fill(folder, wanted, context)))


def _fill(folder: Path, wanted: _Repository, context: Context) -> tuple[str, str]:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    commit, license_id, files = _listing(wanted, endpoint)
    chosen = _choose(wanted, files)
    # What an earlier try brought of another commit has no place in this one.
    names = {safe_path(file.name, f"The repository {wanted.name}") for file in chosen}
    for path in [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(WORKING)]:
        if path.relative_to(folder).as_posix() not in {str(name) for name in names}:
            path.unlink()
    total = sum(file.size for file in chosen)
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if total - have > free:
        raise SourceError(f"{wanted.key} takes {size_in_words(total)}, and {folder} has {size_in_words(free)} left; make room.")
    with context.progress(f"Downloading {wanted.key}", total, "B") as progress:
        for file in chosen:
            target = folder / safe_path(file.name, f"The repository {wanted.name}")
            if target.is_file() and _is_whole(target, file):
                progress.advance(file.size)
                continue
            partial = folder / file.partial
            _download(wanted, endpoint, commit, file, partial, progress)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
    return f"hf:{wanted.name}@{commit}", license_id


def _listing(wanted: _Repository, endpoint: str) -> tuple[str, str, list[_RemoteFile]]:
    """Commit, licence and files of a revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi(endpoint=endpoint).model_info(wanted.name, revision=wanted.revision, files_metadata=True, timeout=_TIMEOUT)
    except GatedRepoError as error:
        cure = f"accept its terms at {endpoint}/{wanted.name}, then run hf auth login"
        raise SourceError(f"The model {wanted.name} is gated; {cure}.") from error
    except RevisionNotFoundError as error:
        raise SourceError(f"The model {wanted.name} has no revision {wanted.revision} on {endpoint}.") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"There is no model {wanted.name} on {endpoint}, or it is private and needs hf auth login; check the name."
        ) from error
    except HFValidationError as error:
        raise SourceError(f'"{wanted.name}" is no name of a model on the Hub; it has the form org/name.') from error
    except HfHubHTTPError as error:
        raise SourceError(f"{endpoint} answered {error.response.status_code} for {wanted.name}; try again later.") from error
    except Exception as error:  # each version of the library lets another HTTP client's errors through
        raise _unreachable(endpoint, wanted, error) from error
    card = info.card_data
    license_id = str(card.get("license") or "") if card else ""
    files = []
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        if sibling.size is None or sibling.size < 0:
            raise SourceError(f"{endpoint} gives no size for {sibling.rfilename} of {wanted.name}; try again later.")
        files.append(_RemoteFile(sibling.rfilename, sibling.size, lfs.sha256 if lfs else None, sibling.blob_id or ""))
    return info.sha or wanted.revision, license_id, files


def _choose(wanted: _Repository, files: list[_RemoteFile]) -> list[_RemoteFile]:
    known = {file.name: file for file in files}
    if wanted.file:
        if wanted.file not in known:
            raise SourceError(f"The model {wanted.name} has no file {wanted.file}{did_you_mean(wanted.file, known)}")
        names = [wanted.file]
    else:
        names = model_files(known)
        weights = [name for name in names if name.lower().endswith(".gguf")]
        # A repository of GGUF files offers one model many times over; the numbered parts of one are one.
        if len(weights) > 1 and not all("-of-" in name for name in weights):
            raise SourceError(
                f"The model {wanted.name} comes as several files; name one, as hf:{wanted.name}:{weights[0]} ({listed(weights)})."
            )
    if not names:
        raise SourceError(
            f"The model {wanted.name} has no safetensors beside a config.json and no GGUF file; only those are fetched ({listed(known)})."
        )
    return [known[name] for name in names]


def _download(wanted: _Repository, endpoint: str, commit: str, file: _RemoteFile, partial: Path, progress: Progress) -> None:
    """Fetch one file into ``partial``, resuming an earlier download, and check its digest."""
    failures = 0
    shown = 0
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        if have > file.size:
            partial.unlink()
            have = 0
        progress.advance(have - shown)
        shown = have
        if have == file.size:
            break
        try:
            for chunk in _stream(wanted, endpoint, commit, file, partial, have):
                shown += chunk
                progress.advance(chunk)
        except _Broken as broken:
            # Whatever arrived is kept, so a connection that breaks often still gets there.
            failures = 0 if shown > have else failures + 1
            if failures == _TRIES:
                raise _unreachable(endpoint, wanted, broken.cause) from broken
        else:
            if shown < file.size:
                failures = 0 if shown > have else failures + 1
                if failures == _TRIES:
                    raise SourceError(f"{endpoint} ends {file.name} of {wanted.name} after {shown} of {file.size} bytes; try again later.")
    partial.touch()
    if not _is_whole(partial, file):
        partial.unlink()
        raise SourceError(
            f"{file.name} of {wanted.name} does not have the digest that {endpoint} announces, and was thrown away; try again."
        )


class _Broken(Exception):
    """The connection ended before the file did."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _stream(wanted: _Repository, endpoint: str, commit: str, file: _RemoteFile, partial: Path, have: int) -> Iterator[int]:
    """Append to ``partial`` what the server sends after the first ``have`` bytes; yields the bytes of each chunk."""
    with partial.open("ab") as output:
        for chunk in _chunks(wanted, endpoint, commit, file, have):
            if chunk is None:
                # The server sends the whole file, whatever was asked.
                output.truncate(0)
                yield -have
                continue
            output.write(chunk)
            yield len(chunk)


def _chunks(wanted: _Repository, endpoint: str, commit: str, file: _RemoteFile, have: int) -> Iterator[bytes | None]:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # the library exports it lazily

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(wanted.name, file.name, revision=commit, endpoint=endpoint)
    left = file.size - have
    try:
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
            _check_status(response.status_code, wanted, endpoint, file)
            if have and response.status_code == 200:
                yield None
                left = file.size
            for chunk in response.iter_bytes(_CHUNK):
                left = _left(left, len(chunk), endpoint, file)
                yield chunk
    except SourceError:
        raise
    except Exception as error:  # the session's HTTP client is the library's choice, and so are its errors
        raise _Broken(error) from error


def _check_status(status: int, wanted: _Repository, endpoint: str, file: _RemoteFile) -> None:
    if status not in (200, 206):
        raise SourceError(f"{endpoint} answered {status} for {file.name} of {wanted.name}; try again later.")


def _left(left: int, arrived: int, endpoint: str, file: _RemoteFile) -> int:
    # More than was announced is not the file, and must not fill the disk.
    if arrived > left:
        raise SourceError(f"{endpoint} sends more of {file.name} than the {file.size} bytes it announces; it was not stored.")
    return left - arrived


def _is_whole(path: Path, file: _RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.git_blob:
        # What is not in large file storage has git's name for it: SHA-1 over a header and the content.
        digest, expected = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False), file.git_blob
    else:
        return True
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _unreachable(endpoint: str, wanted: _Repository, error: Any) -> SourceError:
    return SourceError(
        f"{endpoint} cannot be reached, so {wanted.key} was not fetched ({type(error).__name__}); check the network or HF_ENDPOINT."
    )
