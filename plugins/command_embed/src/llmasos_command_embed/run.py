"""The vectors of many texts, on disk as they come."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_command_embed.texts import FileText
from llmasos_hookspecs import LLMasOSError, RequestError, TextKind
from llmasos_task_kit.results import ResultFile

#: Texts that are embedded, and then written, together: some seconds of work, which a kill costs at most.
_TOGETHER: Final = 256


class Embedder(Protocol):
    """The model, as far as it is used here."""

    def embed(
        self, texts: Sequence[str], kind: TextKind, *, normalize: bool, dimensions: int | None, truncate: bool
    ) -> npt.NDArray[np.float32]: ...


@attrs.frozen(kw_only=True)
class How:
    """How texts are embedded; part of each result's key, together with the model's ``reference``."""

    reference: str
    kind: TextKind = "passage"
    normalize: bool = True
    dimensions: int | None = None
    truncate: bool = False

    def key(self, text: str) -> str:
        """A digest of a text and of all that its vector depends on."""
        parts = json.dumps([text, attrs.astuple(self)], ensure_ascii=False)
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def embedded(self, model: Embedder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of texts."""
        return model.embed(texts, self.kind, normalize=self.normalize, dimensions=self.dimensions, truncate=self.truncate)


@attrs.frozen(kw_only=True)
class EmbedReport:
    """What a run came to: ``done`` texts were embedded, ``skipped`` were there already; of all ``texts`` some ``errors`` were refused."""

    path: Path
    texts: int
    done: int
    skipped: int
    errors: int
    seconds: float


def run_embed(
    model: Embedder, texts: Iterable[FileText], output: Path, how: How, *, progress: Callable[[int], None] = lambda _: None
) -> EmbedReport:
    """Write the vectors of ``texts`` to ``output``, a ``.npy`` or a ``.jsonl`` file; ``progress`` is told how many more texts are done.

    Raises:
        RequestError: ``output`` is of neither kind, was not written by this command or from other texts, or is in use; or texts were
            refused that a ``.npy`` file was to hold.
        LLMasOSError: the model failed; what is done is kept.
    """
    if output.suffix.lower() not in (".npy", ".jsonl"):
        raise RequestError(f"{output} is neither .npy nor .jsonl, the kinds of file that vectors are written to.")
    whole = output.suffix.lower() == ".npy"
    if whole and (output.exists() or output.is_symlink()):
        raise RequestError(f"{output} is there already; name another output file, or remove it.")
    journal = output.with_name(f"{output.name}.part.jsonl") if whole else output
    began = time.monotonic()
    seen = done = skipped = 0

    def missing(results: ResultFile) -> Iterator[FileText]:
        nonlocal seen, skipped
        for text in texts:
            seen += 1
            known = results.keys.get(text.index)
            if known is None:
                yield text
            elif known == how.key(text.text):
                skipped += 1
                progress(1)
            else:
                raise RequestError(
                    f"{journal} holds a vector of another text, or from another model, in place {text.index}; name another output file."
                )

    with ResultFile(journal) as results:
        for batch in _batched(missing(results)):
            results.append(_lines(model, batch, how))
            done += len(batch)
            progress(len(batch))
        results.sort()
        errors = results.errors
        if whole and not errors:
            _write_array(journal, output, seen)
    if whole and errors:
        raise RequestError(f"{errors} of {seen} texts were refused, for the reasons in {journal}, so {output} was not made; mend them.")
    if whole:
        journal.unlink()
    return EmbedReport(path=output, texts=seen, done=done, skipped=skipped, errors=errors, seconds=time.monotonic() - began)


def _batched(texts: Iterator[FileText]) -> Iterator[tuple[FileText, ...]]:
    while batch := tuple(itertools.islice(texts, _TOGETHER)):
        yield batch


def _lines(model: Embedder, batch: Sequence[FileText], how: How) -> list[dict[str, Any]]:
    """The results of some texts; where they are refused together, each is tried by itself, so that only the wrong ones are refused."""
    try:
        return [_line(text, how, vector) for text, vector in zip(batch, how.embedded(model, [each.text for each in batch]), strict=True)]
    except RequestError as error:
        if len(batch) > 1:
            return [line for text in batch for line in _lines(model, [text], how)]
        return [{"index": batch[0].index, "key": how.key(batch[0].text), "error": f"{batch[0].location}: {error}"}]


def _line(text: FileText, how: How, vector: npt.NDArray[np.float32]) -> dict[str, Any]:
    # Nine digits are enough to give back every float32.
    return {"index": text.index, "key": how.key(text.text), "embedding": [float(f"{number:.9g}") for number in vector.tolist()]}


def _write_array(journal: Path, output: Path, count: int) -> None:
    """The vectors of a journal as one array, which appears whole. Only one line of the journal is in memory at a time."""
    work = output.with_name(f".{output.name}.writing")
    try:
        with journal.open(encoding="utf-8") as lines:
            array: npt.NDArray[np.float32] | None = None
            for place, line in enumerate(lines):
                vector = json.loads(line)["embedding"]
                if array is None:
                    array = np.lib.format.open_memmap(work, mode="w+", dtype=np.float32, shape=(count, len(vector)))
                array[place] = vector
        if array is None:
            raise RequestError(f"There are no texts, so {output} was not made.")
        array.flush()  # type: ignore[attr-defined]  # of a memory map
        del array
        os.replace(work, output)
    except OSError as error:
        raise LLMasOSError(f"{output} cannot be written ({error.strerror or error}); {journal} has the vectors: run it again.") from error
    finally:
        work.unlink(missing_ok=True)
